"""What a recipe or a flag may name, for those who check it before torch is imported: a line here for each entry of
`compress.distill.methods.METHODS` and `compress.pruning.importance.IMPORTANCES`."""

from typing import Literal

MethodName = Literal["labels", "kd", "dkd", "simultaneous", "stagewise", "fitnets", "attention", "fsp", "overhaul"]
ImportanceName = Literal["magnitude", "taylor", "hessian", "bn-scale", "lamp", "random"]
