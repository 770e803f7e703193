"""Projectors as others name them: the family, and its tensors' names there and here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from switchkd.errors import CheckpointError


@dataclass(frozen=True)
class Connector:
    """One kind."""

    pattern: str  # of its names in other projects
    family: str  # `projector_type`
    names: Mapping[str, str]  # how tensors' names begin there → here
    grid: int | None = None  # patches along a picture's side, where it is made for one number

    def renamed(self, name: str) -> str:
        """A tensor's name here, from the one there."""
        begin = next((begin for begin in self.names if name.startswith(begin)), None)
        return name if begin is None else self.names[begin] + name.removeprefix(begin)


OWN = "transformers' own"  # LLaVA's there, by whose names this package goes
CONNECTORS = (
    Connector(r"mlp2x_gelu", "mlp", {"0.": "linear_1.", "2.": "linear_2."}),
    Connector(r"linear|mlp1x_gelu", "mlp1", {"0.": "linear_1.", "weight": "linear_1.weight", "bias": "linear_1.bias"}),
    Connector(r"mlp3x_gelu", "mlp3", {"0.": "linear_1.", "2.": "linear_2.", "4.": "linear_3."}),
    Connector(r"ldpnetv2", "ldpv2", {}, grid=24),
    Connector(OWN, "mlp", {}),
)


def find_connector(name: str, where: str) -> Connector:
    """That of a name. Raises CheckpointError, beginning with `where`, for one that can't be imported."""
    for connector in CONNECTORS:
        if re.fullmatch(connector.pattern, name):
            return connector
    raise CheckpointError(
        f"{where} has the connector '{name}', which can't be imported; what can is linear, mlp2x_gelu, mlp3x_gelu and ldpnetv2."
    )
