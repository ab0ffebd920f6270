"""Say in words why a node was chosen, or why none could be: lines for a terminal, one line for a header or a log."""

from __future__ import annotations

from coordinator.cost import RouteRequest, Terms
from coordinator.route import Candidate, Refusal, Route, Unfit, Why, choose_route, consider
from coordinator.view import View
from node.errors import in_gib

_MOST_UNFIT = 20
_WHY: dict[Why, str] = {
    "draining": "is being drained",
    "excluded": "has just failed or refused this request",
    "lost": "can't be reached",
    "no_bytes": "lacks the model's layers, and no node that can be reached has all of them",
    "no_room": "needs {needed}, has or could free {free}",
    "not_wanted": "the model is not to run there",
    "too_short": "has it loaded with a context that is shorter than the prompt",
    "too_small": "has it loaded with a smaller context or fewer sequences, and in use",
    "unknown_size": "does not have it loaded, and its size is not known here",
}
_REFUSED = {
    "unknown_model": "no node that can be reached has this model",
    "no_room": "it fits nowhere: it needs {needed}, and the most any node has or could free is {free}",
    "no_node": "every node that could has just failed or refused it, or takes nothing new",
    "unknown_size": "no node has it loaded, and its size is not known here",
}


def explain_lines(view: View, request: RouteRequest) -> list[str]:
    """Every node with its cost terms, the chosen one first, then those that can't and why."""
    answer = choose_route(view, request)
    could, unfit = consider(view, request)
    names = [candidate.name for candidate in could] + [node.name for node in unfit]
    width = max((len(name) for name in names), default=0)
    lines = []
    if isinstance(answer, Refusal):
        lines.append(f"Nobody can: {explain_refusal(answer)}.")
    else:
        could.sort(key=lambda candidate: candidate.node != answer.node)
        lines.append(f"{could[0].name} wins: {_reason(could)}")
    lines += [f"  {c.name:<{width}}  {_seconds(c.terms.total_s)}  {_detail(c)}" for c in could]
    lines += [f"  {node.name:<{width}}  {'no':<10}  {_why(node)}" for node in unfit[:_MOST_UNFIT]]
    if len(unfit) > _MOST_UNFIT:
        lines.append(f"  and {len(unfit) - _MOST_UNFIT} more that can't")
    return lines


def explain_refusal(refusal: Refusal) -> str:
    """One clause."""
    return _REFUSED[refusal.reason].format(needed=in_gib(refusal.needed_bytes), free=in_gib(refusal.free_bytes))


def route_header(route: Route) -> str:
    """A route in one line of ASCII: node, kind, the terms that are not nothing, in milliseconds, and the next best."""
    total_s = route.terms.total_s
    terms = [f"{name}={seconds * 1000:.1f}ms" for name, seconds in _named(route.terms)]
    cached = [f"cached={route.cached_tokens}"] if route.cached_tokens else []
    others = [other for other in route.candidates if other.node != route.node]
    after = min(others, key=lambda other: other.terms.total_s, default=None)
    second = [f"next={after.node} {(after.terms.total_s - total_s) * 1000:+.1f}ms"] if after else []
    return "; ".join([route.node, route.kind, f"total={total_s * 1000:.1f}ms", *terms, *cached, *second])


def _reason(could: list[Candidate]) -> str:
    first, *others = could
    if not others:
        return "it is the only one that can"
    second = min(others, key=lambda candidate: candidate.terms.total_s)
    ahead_s = second.terms.total_s - first.terms.total_s
    if first.cached_tokens > second.cached_tokens and ahead_s <= 0:
        return "of equals it has the longest cached prefix"
    if ahead_s <= 0.002:
        return "of equals it has the least to do"
    gains = [
        (theirs - mine, name)
        for (name, mine), theirs in zip(_all_named(first.terms), second.terms[1:], strict=True)
        if theirs > mine
    ]
    return f"{_seconds(ahead_s).strip()} sooner than {second.name}, most of it in {max(gains)[1]}"


def _detail(candidate: Candidate) -> str:
    parts = [f"{name} {_seconds(seconds).strip()}" for name, seconds in _named(candidate.terms)]
    text = f"{'loaded' if candidate.kind == 'resident' else 'to load'}: {', '.join(parts) or 'nothing to wait for'}"
    if candidate.cached_tokens:
        text += f"; {candidate.cached_tokens} tokens cached"
    if candidate.evicted:
        text += f"; unloads {', '.join(candidate.evicted)}"
    return text + ("; partly in RAM" if candidate.partial else "")


def _why(node: Unfit) -> str:
    return _WHY[node.why].format(needed=in_gib(node.needed_bytes), free=in_gib(node.free_bytes))


def _all_named(terms: Terms) -> list[tuple[str, float]]:
    return [(field.removesuffix("_s"), value) for field, value in zip(terms._fields, terms, strict=True)][1:]


def _named(terms: Terms) -> list[tuple[str, float]]:
    return [(name, seconds) for name, seconds in _all_named(terms) if seconds > 0]


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:7.1f} ms" if seconds < 10 else f"{seconds:7.1f} s "
