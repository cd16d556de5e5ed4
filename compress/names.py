"""What a recipe or a flag may name, for those who check it before torch is imported."""

from typing import Literal

MethodName = Literal["labels", "kd", "dkd", "simultaneous", "stagewise", "fitnets", "attention", "fsp", "overhaul"]
ImportanceName = Literal["magnitude", "taylor", "hessian", "bn-scale", "lamp", "random"]
