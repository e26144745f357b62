"""A local model behind `dspy.LM(engine=…)`. Importing this package loads no torch; its modules do."""
