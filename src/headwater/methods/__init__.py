"""Methods of attribution: one file a method, named as in its paper, with its equation on top."""

from headwater.methods.parts import Contributions, Part
from headwater.methods.registry import Method, all_methods, get_method
from headwater.methods.tracin_we import TracInWE

__all__ = ["Contributions", "Method", "Part", "TracInWE", "all_methods", "get_method"]
