"""A package's bill of materials: CycloneDX 1.6 as JSON, the variant as a machine-learning-model component.

The same inputs give the same bytes: its serial number follows from the contents, and it bears no time.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from switchkd.errors import SkdError
from switchkd.export.shipping.provenance import Provenance
from switchkd.manifest import FILE_NAME, Manifest
from switchkd.runtime.engines.formats import known_formats, known_runtimes

if TYPE_CHECKING:
    from cyclonedx.model import HashType, Property
    from cyclonedx.model.component import Component, ComponentType
    from packaging.requirements import Requirement

FILE = "bom.cdx.json"
MODEL = "model"  # the variant's name in `licenses`


def bill_of_materials(
    name: str,
    release: int,
    manifest: Manifest,
    manifest_sha256: str,
    origin: Provenance,
    licenses: Mapping[str, str],
) -> str:
    """The document.

    Args:
        name: the variant's.
        manifest_sha256: of its manifest.json.
        licenses: component → SPDX identifier or expression; `model` stands for the variant. For everything whose licence
            neither this nor its own package metadata tells, the document says that it isn't stated.

    Raises:
        SkdError: `licenses` names a component that there is none of, or nothing is known of what runs the format.
    """
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6

    parts = _Parts(licenses)
    model = parts.model(name, release, manifest, manifest_sha256, origin)
    components = [*parts.files(manifest), *parts.data(origin), *parts.checkpoints(origin), *parts.libraries(manifest)]
    parts.check_names()
    bom = Bom(components=components)
    bom.metadata.component = model
    bom.register_dependency(model, components)
    value = json.loads(JsonV1Dot6(bom).output_as_string())
    del value["metadata"]["timestamp"], value["serialNumber"]
    text = json.dumps(value, sort_keys=True)
    value["serialNumber"] = uuid5(NAMESPACE_URL, f"switchkd:{text}").urn
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


class _Parts:
    """Makes components, each with its licence or the statement that none is known."""

    def __init__(self, licenses: Mapping[str, str]) -> None:
        self._licenses = licenses
        self._names: set[str] = set()

    def check_names(self) -> None:
        unknown = sorted(set(self._licenses) - self._names)
        if unknown:
            raise SkdError(f"--license names '{unknown[0]}'; the bill has {', '.join(sorted(self._names))}.")

    def model(self, name: str, release: int, manifest: Manifest, manifest_sha256: str, origin: Provenance) -> Component:
        from cyclonedx.model.component import ComponentType, Pedigree

        source = self._component(
            ComponentType.MACHINE_LEARNING_MODEL,
            "source",
            manifest.source.name,
            sha256=manifest.source.sha256,
            properties={"sha256-over": "names and contents of the checkpoint's files"},
        )
        properties = {
            "format": manifest.format,
            "quantization": manifest.quant,
            "vision-quantization": manifest.vision_quant,
            "sha256-over": FILE_NAME,
            "recipe": origin.recipe or "not recorded",
            "role": origin.role or "not recorded",
            "data-sets": ", ".join(each.name for each in origin.data) or "not recorded",
            **{f"tool:{tool}": version for tool, version in manifest.tools.items()},
        }
        model = self._component(
            ComponentType.MACHINE_LEARNING_MODEL,
            MODEL,
            name,
            version=str(release),
            sha256=manifest_sha256,
            properties=properties,
        )
        model.pedigree = Pedigree(ancestors=[source])
        return model

    def files(self, manifest: Manifest) -> Iterator[Component]:
        from cyclonedx.model.component import ComponentType

        for name, entry in manifest.files.items():
            properties = {"role": entry.role, "bytes": str(entry.bytes)}
            yield self._component(
                ComponentType.FILE, f"file:{name}", name, sha256=entry.sha256, properties=properties, licensed=False
            )

    def data(self, origin: Provenance) -> Iterator[Component]:
        from cyclonedx.model.component import ComponentType

        for each in origin.data:
            properties = {"file": _without_place(each.file), "sha256-over": "the file of records, without pictures"}
            if each.sha256 is None:
                properties["sha256"] = "the file is gone"
            yield self._component(
                ComponentType.DATA, f"data:{each.name}", each.name, sha256=each.sha256, properties=properties
            )

    def checkpoints(self, origin: Provenance) -> Iterator[Component]:
        from cyclonedx.model.component import ComponentType

        for name in dict.fromkeys(map(_without_place, origin.checkpoints)):
            properties = {"used": "by the recipe, to start or to learn from"}
            yield self._component(
                ComponentType.MACHINE_LEARNING_MODEL, f"checkpoint:{name}", name, properties=properties
            )

    def libraries(self, manifest: Manifest) -> Iterator[Component]:
        """What runs the variant, in the versions installed here; none of it is in the package."""
        from cyclonedx.model.component import ComponentScope, ComponentType
        from packageurl import PackageURL

        for each in _runtime_distributions(manifest.format):
            name = each.metadata["Name"]
            component = self._component(
                ComponentType.LIBRARY,
                f"library:{name}",
                name,
                version=each.version,
                license=_license_of(each),
                properties={"included": "no"},
            )
            component.scope = ComponentScope.REQUIRED
            component.purl = PackageURL("pypi", name=name.lower(), version=each.version)
            yield component

    def _component(
        self,
        kind: ComponentType,
        reference: str,
        name: str,
        *,
        version: str | None = None,
        sha256: str | None = None,
        license: str | None = None,
        licensed: bool = True,
        properties: Mapping[str, str],
    ) -> Component:
        from cyclonedx.factory.license import LicenseFactory
        from cyclonedx.model.component import Component

        self._names |= {reference} if licensed else set()
        license = self._licenses.get(reference, license)
        stated = dict(properties)
        if licensed and license is None:
            stated["licence"] = "not stated"
        return Component(
            type=kind,
            name=name,
            version=version,
            bom_ref=reference,
            hashes=_hashes(sha256),
            licenses=[LicenseFactory().make_from_string(license)] if license else [],
            properties=_properties(stated),
        )


def _hashes(sha256: str | None) -> list[HashType]:
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else []


def _properties(values: Mapping[str, str]) -> list[Property]:
    from cyclonedx.model import Property

    return [Property(name=f"switchkd:{key}", value=value) for key, value in values.items()]


def _runtime_distributions(format: str) -> list[importlib.metadata.Distribution]:
    """skd, what it needs at its base, and the format's engine, all that they need included, by name."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    formats = known_formats()
    if format not in formats:
        raise SkdError(
            f"It isn't known what runs the format '{format}', so its bill would lack that; known are {', '.join(formats)}."
        )
    parts = (formats[format].vision, formats[format].language)
    engines = {name for part in parts for name in known_runtimes()[part].packages}
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [Requirement("switchkd"), *map(Requirement, sorted(engines))]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        inner = map(Requirement, found[name].requires or [])
        waiting += [each for each in inner if _applies(each, requirement.extras)]
    return [found[name] for name in sorted(found)]


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""})


def _license_of(distribution: importlib.metadata.Distribution) -> str | None:
    """As a distribution's metadata states it: an expression, else a short field, else its classifier."""
    metadata: Any = distribution.metadata
    if metadata.get("License-Expression"):
        return str(metadata["License-Expression"])
    field = (metadata.get("License") or "").strip()
    if field and "\n" not in field and len(field) <= 80:
        return field
    found = [
        re.sub(r".*:: ", "", each) for each in metadata.get_all("Classifier") or [] if each.startswith("License ::")
    ]
    return " AND ".join(found) or None


def _without_place(name: str) -> str:
    """A folder or file by its own name where it is given by its place on this computer; hub names stay."""
    placed = Path(name).is_absolute() or name.startswith(("~", "."))
    return Path(name).name if placed else name
