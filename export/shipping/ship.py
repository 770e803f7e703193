"""From an exported variant to a signed package for one target computer; the same inputs give the same bytes.

targets.json, targets.json.sig   what is signed, and the signature
bench.json                       measurements of this variant, where there are some
bom.cdx.json                     bill of materials
fit.json                         predicted memory and speed on the target
question.json                    a question with this variant's answer, asked again on the device
run                              starts the variant
target.json                      the target's profile, figures with their sources
variant/                         the exported files and their manifest
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from switchkd.disk import require_replaceable
from switchkd.errors import MissingDependencyError, SkdError
from switchkd.export.shipping import bill_of_materials as bill
from switchkd.export.shipping.evidence import bench_evidence, target_evidence
from switchkd.export.shipping.provenance import provenance
from switchkd.export.shipping.writer import Content, write_package
from switchkd.files import file_sha256
from switchkd.manifest import FILE_NAME, Manifest
from switchkd.runtime.engines.opening import open_engine
from switchkd.runtime.packages.format import QUESTION, RUN, VARIANT, Entry, Targets
from switchkd.runtime.packages.question import KnownQuestion

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

RUN_SCRIPT = """#!/bin/sh
# Starts this variant: `run --image FILE --prompt TEXT`, or `run COMMAND …` for another command of skd on it.
# It stays with the release that it was started from, also when another one is installed meanwhile. It takes the skd that SKD
# names, else the one in the folder `runtime` beside `releases`, a virtual environment or one of `pip install --target`.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd -P)
case "${1:-}" in
"" | -*) command=chat ;;
*) command=$1 && shift ;;
esac
runtime=${here%/*/*}/runtime
if [ -z "${SKD:-}" ] && [ -f "$runtime/pyvenv.cfg" ]; then
    SKD=$runtime/bin/skd
elif [ -z "${SKD:-}" ] && [ -d "$runtime/switchkd" ]; then
    export PYTHONPATH="$runtime${PYTHONPATH:+:$PYTHONPATH}"
    exec python3 -m switchkd.cli "$command" "$here/variant" "$@"
fi
exec "${SKD:-skd}" "$command" "$here/variant" "$@"
"""


@dataclass(frozen=True)
class ShipRequest:
    """What to pack, for which computer."""

    variant: Path  # export folder
    target: str  # profile's name
    signer: CryptoSigner  # of the private key
    out: Path  # the package
    release: int  # the counter; a device refuses one lower than it has had
    bench: Path | None = None  # bench.json; None: what the run measured of this very variant
    licenses: Mapping[str, str] = field(default_factory=dict)  # see `bill_of_materials`
    question: bool = True  # ask the variant, and pack its answer
    force: bool = False  # replace an existing package


@dataclass(frozen=True)
class Shipped:
    """A finished package."""

    targets: Targets  # what is signed
    bytes: int  # of the whole package
    sha256: str  # of the whole package
    key_id: str  # of the key that it is signed with
    fits: str  # on the target, as predicted: yes, no or unknown
    bench: bool  # whether it has measurements
    question: bool  # whether it has a known question


def ship(request: ShipRequest, progress: Callable[[str], None] = lambda _: None) -> Shipped:
    """Packs, signs, and checks the result as a device would.

    Args:
        progress: told what is being done.

    Raises:
        SkdError: the variant is damaged, the target unknown, the measurements are of something else, or the package exists
            or can't be written. Nothing is left then.
    """
    if request.out.exists() and not request.force:
        raise SkdError(f"{request.out} is already there; replace it with --force or choose another --out.")
    require_replaceable(request.out)
    progress("checking the variant")
    variant = request.variant.resolve()
    manifest = Manifest.load(variant)
    target = target_evidence(variant, request.target)
    bench = bench_evidence(variant, request.bench)
    progress("collecting what it was made from")
    manifest_sha256 = file_sha256(variant / FILE_NAME)
    origin = provenance(variant, manifest.source)
    components = bill.bill_of_materials(
        variant.name, request.release, manifest, manifest_sha256, origin, request.licenses
    )
    texts = {bill.FILE: components, RUN: RUN_SCRIPT, "fit.json": target.report, "target.json": target.profile}
    if bench is not None:
        texts["bench.json"] = bench
    contents = {name: Content.of_bytes(text.encode()) for name, text in texts.items()}
    if request.question:
        progress("asking it the question that devices will ask")
        contents[QUESTION] = Content.of_bytes(_question(variant))
    for name, entry in manifest.files.items():
        contents[f"{VARIANT}/{name}"] = Content(variant / name, Entry(entry.bytes, entry.sha256))
    contents[f"{VARIANT}/{FILE_NAME}"] = Content.of_bytes((variant / FILE_NAME).read_bytes())
    files = {name: content.entry for name, content in contents.items()}
    targets = Targets(variant.name, target.hardware_id, request.release, files)
    progress("writing and checking the package")
    write_package(request.out, targets, contents, request.signer, replace=request.force)
    size, digest = request.out.stat().st_size, file_sha256(request.out)
    return Shipped(
        targets, size, digest, request.signer.public_key.keyid, target.fits, bench is not None, request.question
    )


def _question(variant: Path) -> bytes:
    try:
        with open_engine(variant, verify=False) as engine:
            return KnownQuestion.asked(engine).to_bytes()
    except MissingDependencyError as error:
        raise SkdError(f"{error} Or --no-question packs it without an answer that devices can compare.") from error
