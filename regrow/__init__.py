"""regrow: prune a language model and regrow its quality from its own words."""

__version__ = "0.1.0"
