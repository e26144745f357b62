"""A task's signature reads back the same for every adapter, or is refused with what to do."""

from __future__ import annotations

import json
from typing import Any, List, Literal, Optional, Union  # noqa: UP035 - the older spellings must survive too

import dspy
import pydantic
import pytest

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.programs.signature_state import dump_signature, load_signature


class Booking(pydantic.BaseModel):
    """A type that only this module has."""

    hotel: str
    nights: int = 1


class Travel(dspy.Signature):
    """Book a hotel."""

    wish: str = dspy.InputField(desc="what the guest says")
    booking: Booking = dspy.OutputField()


def local_signature() -> type[dspy.Signature]:
    class Local(dspy.Signature):
        """Answer with care."""

        question: str = dspy.InputField(desc="what is asked")
        labels: dict[str, list[int]] | None = dspy.InputField(default=None)
        old: List[str] = dspy.InputField()  # noqa: UP006 - see above
        pair: tuple[int, ...] = dspy.InputField()
        kind: Literal["a", "b", 3] = dspy.OutputField()
        maybe: Optional[Union[int, bool]] = dspy.OutputField(desc="or nothing")  # noqa: UP007, UP045 - see above
        anything: Any = dspy.OutputField()

    return Local


@pytest.mark.parametrize(
    "signature",
    [
        dspy.Signature("question -> answer"),
        dspy.Signature("a: list[str], b: Optional[int] -> c: Literal['x', 'y'], d: dict[str, float]", "Do it."),
        local_signature(),
    ],
)
def test_plain_signatures_are_saved_field_by_field(signature: type[dspy.Signature]) -> None:
    state = json.loads(json.dumps(dump_signature(signature)))
    assert "path" not in state
    loaded = load_signature(state, trust_code=False)
    assert loaded.__name__ == signature.__name__
    assert loaded.instructions == signature.instructions
    assert list(loaded.fields) == list(signature.fields)
    for adapter in (dspy.ChatAdapter(), dspy.JSONAdapter()):
        assert adapter.format_field_description(loaded) == adapter.format_field_description(signature)
        assert adapter.format_field_structure(loaded) == adapter.format_field_structure(signature)
    for name, info in signature.fields.items():
        assert repr(loaded.fields[name]) == repr(info)


def test_a_signature_with_types_of_its_own_is_saved_by_its_path() -> None:
    state = dump_signature(Travel)
    assert state["names"] == ["wish", "booking"]
    assert load_signature(state, trust_code=False) is Travel
    with pytest.raises(ConfigurationError, match="bring them back or compile again"):
        load_signature({**state, "names": ["wish"]}, trust_code=False)


def test_a_signature_that_nobody_else_can_import_is_refused() -> None:
    class Local(dspy.Signature):
        wish: str = dspy.InputField()
        booking: list[Booking] = dspy.OutputField()

    with pytest.raises(ConfigurationError, match="its field 'booking' is more than a plain type.*into a module"):
        dump_signature(Local)


def test_a_constraint_is_not_lost() -> None:
    class Short(dspy.Signature):
        wish: str = dspy.InputField(max_length=5)
        answer: str = dspy.OutputField()

    with pytest.raises(ConfigurationError, match="its field 'wish'"):
        dump_signature(Short)


def test_a_module_that_is_not_imported_needs_trust() -> None:
    state = {"path": "antigravity_of_somebody:Travel", "names": []}
    with pytest.raises(ConfigurationError, match="pass trust_code=True if you trust the folder"):
        load_signature(state, trust_code=False)
    with pytest.raises(ConfigurationError, match="needs the module 'antigravity_of_somebody'"):
        load_signature(state, trust_code=True)
    with pytest.raises(ConfigurationError, match="is not at"):
        load_signature({"path": f"{__name__}:Gone", "names": []}, trust_code=True)
    with pytest.raises(ConfigurationError, match="is not a dspy.Signature"):
        load_signature({"path": f"{__name__}:local_signature", "names": []}, trust_code=True)
