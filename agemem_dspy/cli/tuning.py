"""`agemem tune`."""
import typer
EXAMPLE="x"
def tune() -> None:
    """Tune."""
