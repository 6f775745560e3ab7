"""Merge the encoders of similar assessment items and show what it costs.

items → finetune → features → distances → plan → merge → heads → decision → evaluate → report
"""

from importlib.metadata import version

__version__ = version("gwsmm")
