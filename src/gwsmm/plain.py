"""YAML that somebody else may have written."""

import yaml


def read_yaml(text: str) -> object:
    """The content, of nothing but plain values.

    Raises:
        yaml.YAMLError: it is no YAML, or uses an alias, by which few lines can say billions.
        RecursionError: it nests too deeply.
    """
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise yaml.YAMLError("aliases (*name) are not read: write the values out")
    return yaml.safe_load(text)
