"""A hostile Jinja template is refused or comes to an end, soon and within memory; a decent one is not in the way."""

from __future__ import annotations

import pytest

from node.prompt import TemplateError
from node.prompt.sandbox import JinjaTemplate
from tests.prompt.chats import NOW


def run(source: str, **values: object) -> str:
    return JinjaTemplate(source).render(values, now=NOW, input_chars=1000)


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("{{ [1, 'a', none, true] }} {{ {'a': 1} }} {{ (1, 2) }}", "[1, 'a', None, True] {'a': 1} (1, 2)"),
        ("{{ ['a', 'b'] | map('upper') | tojson }}", '["A", "B"]'),
        ("{{ x | tojson }}", '{"a": "<é>", "b": [1, null]}'),
        ("{{ x | tojson(indent=2) }}", '{\n  "a": "<é>",\n  "b": [\n    1,\n    null\n  ]\n}'),
        (
            "{% for k, v in x.items() %}{{ k }}{% endfor %}{{ x.get('z', 'none') }}{{ x.keys() | list }}",
            "abnone['a', 'b']",
        ),
        ("{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "10"),
        ("{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, b='c') }}", "121c"),
        (
            "{% for i in range(9) %}{% if i==1 %}{% continue %}{% elif i>3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "023",
        ),
        ("{% generation %}a{{ 1 }}{% endgeneration %}b", "a1b"),
        ("{{ 'a' ~ 1 ~ none }} {{ 'x' * 3 }} {{ '%s-%d' % ('a', 2) }} {{ '{}'.format(1) }}", "a1None xxx a-2 1"),
        (
            "{{ ' a,b '.strip().split(',')[-1] }} {{ 'abc'.replace('b', 'x') }} {{ 'abc' | replace('c', 'd') }}",
            "b axc abd",
        ),
        (
            "{{ ['a', 'b'] | join('-') }} {{ '-'.join(['a', 'b']) }} {{ 'abc'[::-1] }} {{ 'a' in 'abc' }}",
            "a-b a-b cba True",
        ),
        ("{{ [{'r': 'u', 'c': 'x'}] | selectattr('r', 'equalto', 'u') | map(attribute='c') | join }}", "x"),
        ("{{ 'a\nb' | indent(2) }} {{ 5 | string }} {{ 3.7 | int }} {{ 'A' | lower }}", "a\n  b 5 3 a"),
        ("{{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 8 }} {{ 7 / 2 }} {{ 1 - 3 }}", "3 3 256 3.5 -2"),
        ("{%- set a, b = 1, 2 -%} {{ a + b }}{{ undefined_name }}{{ x is mapping }}", "3True"),
        ("{%- call(v) m() %}{{ v }}{% endcall %}", None),
    ],
)
def test_what_chat_templates_use_works(source: str, printed: str | None) -> None:
    if printed is None:
        with pytest.raises(TemplateError):
            run(source)
    else:
        assert run(source, x={"a": "<é>", "b": [1, None]}) == printed


GROW = "{{% set ns = namespace(x={start}) %}}{{% for i in range(99) %}}{{% set ns.x = {step} %}}{{% endfor %}}{end}"
HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "text in loops": "{% for a in range(99999) %}" + "x" * 10_000 + "{% endfor %}",
    "captured text": "{% set x %}{% for a in range(99999) %}" + "x" * 10_000 + "{% endfor %}{% endset %}",
    "macro": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "macro of width": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for i in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "repeat": "{{ 'a' * 10 ** 10 }}",
    "repeat list": "{{ [0] * 10 ** 10 }}",
    "power": "{{ 9 ** 99 ** 99 ** 99 }}",
    "big numbers": GROW.format(start="9", step="ns.x * ns.x", end=""),
    "plus": GROW.format(start="'a'", step="ns.x + ns.x", end=""),
    "tilde": GROW.format(start="'a'", step="ns.x ~ ns.x", end=""),
    "list plus": GROW.format(start="[1]", step="ns.x + ns.x", end=""),
    "nested list": GROW.format(start="[1]", step="[ns.x, ns.x]", end="{{ ns.x }}"),
    "nested tuple": GROW.format(start="[1]", step="(ns.x, ns.x)", end="{{ ns.x == ns.x }}"),
    "nested dict": GROW.format(start="[1]", step="{'a': ns.x, 'b': ns.x}", end="{{ ns.x | tojson }}"),
    "nested dict call": GROW.format(start="[1]", step="dict(a=ns.x, b=ns.x)", end="{{ ns.x | string }}"),
    "join": GROW.format(start="'a'", step="[ns.x, ns.x] | join", end=""),
    "str.join": GROW.format(start="'a'", step="ns.x.join([ns.x, ns.x])", end=""),
    "replace": GROW.format(start="'aa'", step="ns.x.replace('a', 'aa')", end=""),
    "replace filter": GROW.format(start="'aa'", step="ns.x | replace('', 'aa')", end=""),
    "format": GROW.format(start="'a'", step="'{0}{0}'.format(ns.x)", end=""),
    "percent": GROW.format(start="'a'", step="'%s%s' % (ns.x, ns.x)", end=""),
    "capture": "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}"
    "{% set ns.x = y %}{% endfor %}",
    "width": "{{ '%9999999999d' % 1 }}",
    "format width": "{{ '{:9999999999}'.format(1) }}",
    "nested width": "{{ '{:{}}'.format(1, 9999999999) }}",
    "indent": "{{ [1] | tojson(indent=10 ** 9) }}",
    "center": "{{ 'a'.center(10 ** 9) }}",
    "filter center": "{{ 'a' | center(10 ** 9) }}",
    "range": "{{ range(10 ** 10) | list }}",
    "lipsum": "{{ lipsum(n=10 ** 6) }}",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "long": "x" * (1 << 21),
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "format attribute": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "context": "{{ self._TemplateReference__context.environment }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "change": "{{ messages.append(1) }}",
    "syntax": "{{ x }",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.timeout(15)
def test_hostile_templates_are_refused(source: str) -> None:
    with pytest.raises(TemplateError):
        run(source, messages=[])
