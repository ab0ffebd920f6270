"""Numbers within bounds, as a grammar over their digits.

Only plain decimals are written where there is a bound: at most 15 digits where a value lies close to one, because
so many survive the way through a double, and a comparison then comes out as it does on paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from node.grammar.errors import InvalidSchema
from node.grammar.gbnf import EMPTY, NEVER, Chars, Repeat, Term, Text, choice, optional, sequence

# Every whole number of 15 digits is a double of its own.
SAFE_DIGITS = 15
MAX_INTEGER_DIGITS = 60

DIGIT = Chars(((ord("0"), ord("9")),))
NONZERO = Chars(((ord("1"), ord("9")),))
# JSON numbers without bounds; exponents stay far from overflow.
INTEGER = sequence(optional(Text("-")), choice([Text("0"), sequence(NONZERO, Repeat(DIGIT, 0, SAFE_DIGITS - 1))]))
NUMBER = sequence(
    INTEGER,
    optional(sequence(Text("."), Repeat(DIGIT, 1, SAFE_DIGITS))),
    optional(sequence(Chars(((69, 69), (101, 101))), optional(Chars(((43, 43), (45, 45)))), Repeat(DIGIT, 1, 2))),
)


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a range; `included` says whether the value itself is in it."""

    value: Fraction
    included: bool = True


def integers(low: Bound | None, high: Bound | None) -> Term:
    """Whole numbers within bounds; an open side ends where 15 digits do, or a digit beyond the other bound."""
    if low is None and high is None:
        return INTEGER
    least = None if low is None else _next_integer(low)
    most = None if high is None else -_next_integer(Bound(-high.value, high.included))
    digits = max(len(str(abs(end))) for end in (least, most) if end is not None)
    if digits > MAX_INTEGER_DIGITS:
        raise InvalidSchema("", "a bound is too far from zero")
    far = 10 ** max(SAFE_DIGITS, digits + 1) - 1
    return _signed_integers(-far if least is None else least, far if most is None else most)


def _next_integer(low: Bound) -> int:
    """The least whole number that a lower bound admits."""
    least = math.ceil(low.value)
    return least + 1 if least == low.value and not low.included else least


def _signed_integers(least: int, most: int) -> Term:
    if least > most:
        return NEVER
    options = []
    if least < 0:
        options.append(sequence(Text("-"), _digits_between(max(1, -most), -least)))
    if most >= 0:
        options.append(_digits_between(max(0, least), most))
    return choice(options)


def _digits_between(least: int, most: int) -> Term:
    """The whole numbers from `least` to `most`, neither negative, without leading zeros."""
    options = []
    while least <= most:
        # All numbers of one length at a time.
        last = min(most, 10 ** len(str(least)) - 1)
        options.append(_same_length(str(least), str(last)))
        least = last + 1
    return choice(options)


def _same_length(low: str, high: str) -> Term:
    """Digit strings from `low` to `high`, which are equally long."""
    if not low:
        return EMPTY
    free = len(low) - 1
    if low[1:] == "0" * free and high[1:] == "9" * free:
        return sequence(_digit_range(low[0], high[0]), _any_digits(free))
    if low[0] == high[0]:
        return sequence(Text(low[0]), _same_length(low[1:], high[1:]))
    options = [
        sequence(Text(low[0]), _same_length(low[1:], "9" * free)),
        sequence(Text(high[0]), _same_length("0" * free, high[1:])),
    ]
    if int(high[0]) - int(low[0]) > 1:
        between = _digit_range(str(int(low[0]) + 1), str(int(high[0]) - 1))
        options.insert(1, sequence(between, _any_digits(free)))
    return choice(options)


def _digit_range(low: str, high: str) -> Term:
    return Text(low) if low == high else Chars(((ord(low), ord(high)),))


def _any_digits(count: int) -> Term:
    return EMPTY if count == 0 else DIGIT if count == 1 else Repeat(DIGIT, count, count)


def decimals(low: Bound | None, high: Bound | None) -> Term:
    """Numbers within bounds."""
    if low is None and high is None:
        return NUMBER
    far = 10**SAFE_DIGITS
    if any(end is not None and abs(end.value) >= far for end in (low, high)):
        # Beyond, a fraction would be lost in a double; whole numbers are exact.
        return integers(low, high)
    low = low or Bound(Fraction(1 - far))
    high = high or Bound(Fraction(far - 1))
    options = []
    if low.value < 0:
        upper = Bound(-low.value, low.included)
        options.append(sequence(Text("-"), _positive(Bound(max(-high.value, Fraction(0)), _sign_end(high)), upper)))
    if high.value >= 0:
        options.append(_positive(low if low.value >= 0 else Bound(Fraction(0)), high))
    return choice(options)


def _sign_end(high: Bound) -> bool:
    """Whether the magnitude of a negative number may reach the nearer end of its range."""
    return high.included or high.value > 0


def _positive(low: Bound, high: Bound) -> Term:
    """Numbers from `low`, not negative, to `high`."""
    if low.value > high.value or (low.value == high.value and not (low.included and high.included)):
        return NEVER
    first, last = math.floor(low.value), math.floor(high.value)
    if first == last:
        return sequence(Text(str(first)), _fraction(first, low, high))
    options = [
        sequence(Text(str(first)), _fraction(first, low, None)),
        sequence(Text(str(last)), _fraction(last, None, high)),
    ]
    if last - first > 1:
        between = _digits_between(first + 1, last - 1)
        places = SAFE_DIGITS - len(str(last - 1))
        options.insert(1, sequence(between, optional(sequence(Text("."), Repeat(DIGIT, 1, max(1, places))))))
    return choice(options)


def _fraction(whole: int, low: Bound | None, high: Bound | None) -> Term:
    """What may follow a whole part: nothing, or a point and digits, within the bounds that have the same one."""
    # With the whole part, no more digits than a double can tell apart.
    places = SAFE_DIGITS - (len(str(whole)) if whole else 0)
    step = Fraction(1, 10**places)
    least = Fraction(0)
    most = 1 - step
    if low is not None:
        least = math.ceil((low.value - whole) / step) * step
        if whole + least == low.value and not low.included:
            least += step
    if high is not None:
        most = math.floor((high.value - whole) / step) * step
        if whole + most == high.value and not high.included:
            most -= step
    if least > most or most < 0 or least >= 1:
        return NEVER
    lower, upper = (str(int(end / step)).zfill(places) for end in (least, most))
    digits = _between_places(lower, upper)
    point = sequence(Text("."), digits)
    return optional(point) if least == 0 else point


def _between_places(low: str, high: str) -> Term:
    """Digits after a point, from one to `len(low)` of them, that read as from 0.`low` to 0.`high`."""
    options = []
    room = len(low) - 1
    zero, nine = "0" * room, "9" * room
    for first in range(int(low[0]), int(high[0]) + 1):
        under, over = first == int(low[0]), first == int(high[0])
        rest_low, rest_high = (low[1:] if under else zero), (high[1:] if over else nine)
        if room == 0:
            tail: Term = EMPTY
        elif rest_low == zero and rest_high == nine:
            tail = Repeat(DIGIT, 0, room)
        else:
            tail = _between_places(rest_low, rest_high)
            # Ending here reads as if zeros followed.
            if rest_low == zero:
                tail = optional(tail)
        options.append((first, tail))
    return choice(_grouped(options))


def _grouped(options: list[tuple[int, Term]]) -> list[Term]:
    """Digits that are followed by the same as one range."""
    terms = []
    while options:
        first, tail = options.pop(0)
        last = first
        while options and options[0] == (last + 1, tail):
            last = options.pop(0)[0]
        terms.append(sequence(_digit_range(str(first), str(last)), tail))
    return terms
