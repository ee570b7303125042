"""config.yml of older runs: nerfstudio reads it with yaml.Loader, which imports classes by old names."""

import dataclasses

import yaml

from csd_core.engine.config import EditConfig

_PLACES = ("csd_core.config.EditConfig", "csd_core.engine.config.EditConfig")
"""Where EditConfig was, and where it is."""
_RENAMED = {"max_batch": "chunk_size"}
"""Settings that have another name now."""


def read_old_configs() -> None:
    """Let yaml.Loader build the EditConfig of any version: missing settings get their defaults."""
    for place in _PLACES:
        yaml.Loader.add_constructor(f"tag:yaml.org,2002:python/object:{place}", _edit_config)


def _edit_config(loader: yaml.Loader, node: yaml.MappingNode) -> EditConfig:
    known = {field.name for field in dataclasses.fields(EditConfig)}
    settings = loader.construct_mapping(node, deep=True)
    for old, new in _RENAMED.items():
        if old in settings and old not in known:
            settings.setdefault(new, settings[old])
    return EditConfig(**{str(name): value for name, value in settings.items() if name in known})
