"""Doors for programs written for other libraries: their call signatures over our pipeline.

`kinora.compat.diffusers` and `kinora.compat.diffsynth`; docs/compat.md says what each keeps of the
library that it stands for and what it mends.
"""

__all__: list[str] = []
