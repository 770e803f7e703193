"""Every layout that can be imported: a file each in `layouts/`."""

from __future__ import annotations

from switchkd.architecture.config_json import OWN
from switchkd.errors import CheckpointError
from switchkd.importing.layout import Layout, Source
from switchkd.importing.layouts import hub, mindvl, original, tinyllava

LAYOUTS = (tinyllava.LAYOUT, original.LAYOUT, mindvl.LAYOUT, hub.LAYOUT)

# Kinds that are known and can't be imported → why.
_REFUSED = {
    "llava_next": "it cuts a picture into several crops",
    "llava_onevision": "it cuts a picture into several crops",
    "idefics3": "it cuts a picture into several crops",
    "smolvlm": "it cuts a picture into several crops",
    "llava_phi": "its language model is Phi",
}


def recognise(source: Source) -> Layout:
    """The layout of a folder. Raises CheckpointError, with what was seen there, for an unknown one."""
    for layout in LAYOUTS:
        if layout.found(source.folder, source.config):
            return layout
    config = source.config
    if config.get("model_type") == OWN:
        raise CheckpointError(f"{source.folder} is a model folder of this package already; it needs no import.")
    if why := _REFUSED.get(str(config.get("model_type"))):
        raise CheckpointError(f"{source.folder} is a {config['model_type']}, which can't be imported: {why}.")
    files = ", ".join(sorted(path.name for path in source.folder.iterdir())[:12])
    known = "; ".join(layout.name for layout in LAYOUTS)
    raise CheckpointError(
        f"{source.folder} is of no layout that can be imported (model_type {config.get('model_type')!r}, architectures "
        f"{config.get('architectures')!r}, files {files}); known are {known}."
    )
