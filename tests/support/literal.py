"""The losses written out as the paper states them, slowly, in rational or float64 arithmetic."""

from fractions import Fraction

import torch
from torch import Tensor


def literal_knee(row: Tensor, knee_top=None, k_min=None, k_max=None, k=None) -> int:
    """Equations 8 and 9 for one row [N], in rational numbers."""
    z = sorted((Fraction(value) for value in row.double().tolist()), reverse=True)
    if k is not None:
        return min(k, len(z))
    whole, z = len(z), z[:knee_top]
    size, low, high = len(z), z[-1], z[0]
    if low == high:
        return 0
    d = [(1 - Fraction(i, size)) - (value - low) / (high - low) for i, value in enumerate(z, start=1)]
    found = d.index(max(d)) + 1
    found = max(found, k_min or 0)
    return min(found, whole, k_max or whole)


def explicit_pairs(
    leader: Tensor, student: Tensor, teacher: Tensor, k: int, temperature: float, direction: str
) -> Tensor:
    """Equations 10 to 15 for one branch of one position: all pairs, one softmax, one KL."""
    if k < 2:
        return (student * 0).sum()
    order = sorted(range(len(leader)), key=lambda i: (-leader[i].item(), i))[:k]
    first, second = torch.triu_indices(k, k, offset=1)
    logs = {}
    for name, z in (("student", student), ("teacher", teacher)):
        led = z[order]
        logs[name] = torch.log_softmax((led[first] - led[second]) / temperature, dim=0)
    p, q = ("student", "teacher") if direction == "reverse" else ("teacher", "student")
    return (logs[p].exp() * (logs[p] - logs[q])).sum()


def literal_dbild(teacher: Tensor, student: Tensor, temperature: float, direction: str = "reverse", **scope) -> Tensor:
    """Algorithm 2 for each row of [A, N], in float64, differentiable by autograd through every pair."""
    rows = []
    for t, s in zip(teacher.detach().double(), student.double(), strict=True):
        rows.append(
            explicit_pairs(t, s, t, literal_knee(t, **scope), temperature, direction)
            + explicit_pairs(s.detach(), s, t, literal_knee(s.detach(), **scope), temperature, direction)
        )
    return torch.stack(rows)


def literal_alignment(method: str, teacher: Tensor, student: Tensor, temperature: float, k: int = 8, **scope) -> Tensor:
    """Table 4's losses for each row."""
    direction = "reverse" if method.endswith("rkl") else "forward"
    if method.startswith("dbild"):
        return literal_dbild(teacher, student, temperature, direction, **scope)
    if method.startswith("bild"):
        return literal_dbild(teacher, student, temperature, direction, k=k)
    p_t, p_s = (torch.softmax(z.double() / temperature, dim=1) for z in (teacher.detach(), student))
    if direction == "forward":
        return (p_t * (p_t.log() - p_s.log())).sum(1)
    return (p_s * (p_s.log() - p_t.log())).sum(1)


def literal_objective(options, student, targets, teacher, switch, switch_rows) -> dict[str, Tensor]:
    """Algorithm 1, position by position, summed."""
    scope = {} if options.method.split("-")[0] != "dbild" else {
        "knee_top": options.knee_top, "k_min": options.k_min, "k_max": options.k_max,
    }  # fmt: skip
    factor = options.temperature**2 if options.tau_squared else 1
    ce = align = vsd = student.double().sum() * 0
    seen = 0
    for i in range(len(targets)):
        ce = ce - torch.log(torch.softmax(student[i].double() / options.ce_temperature, 0)[targets[i]])
        pair = (options.method, teacher[i : i + 1], student[i : i + 1], options.temperature, options.k)
        align = align + factor * literal_alignment(*pair, **scope).sum()
        if switch_rows[i]:
            pair = (options.method, teacher[i : i + 1], switch[seen : seen + 1], options.temperature, options.k)
            vsd = vsd + factor * literal_alignment(*pair, **scope).sum()
            seen += 1
    total = ce + options.lambda_align * align + options.lambda_switch * vsd
    return {"total": total, "ce": ce, "align": align, "vsd": vsd}
