"""YAML that somebody else may have written."""

import yaml


def read_yaml(text: str) -> object:
    """The content, of nothing but plain values.

    Raises:
        yaml.YAMLError: it is no YAML, or uses an alias, by which few lines can say billions.
        RecursionError: it nests too deeply.
    """
    loader = _WithoutAliases(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _WithoutAliases(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read: write the values out")
        return super().compose_node(parent, index)
