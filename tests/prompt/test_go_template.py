"""The interpreter for Go's text/template: what Go prints, and what it refuses."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.prompt import TemplateError
from node.prompt.budget import Budget
from node.prompt.go import NAMES, execute, parse
from node.prompt.go.values import JsonMap, Struct, TypeNames

NOW = datetime(2025, 3, 1, 12, 0)
DATA: dict[str, Any] = {
    "S": "text",
    "Empty": "",
    "N": 3,
    "F": 1.5,
    "T": True,
    "L": ["a", "b", "c"],
    "None": [],
    "M": {"z": 1, "a": {"b": "deep"}},
    "X": Struct("main.T", {"Name": "x", "Tags": ["p", "q"]}),
    "J": JsonMap({"b": "<&>", "a": [1, None, 2.0, True]}),
    "Types": TypeNames(["string"]),
}


def run(source: str, data: Any = DATA) -> str:
    return execute(parse(source, NAMES), data, now=NOW, budget=Budget())


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("plain } { text", "plain } { text"),
        ("{{ .S }}{{.N}} {{ .F }} {{ .T }}", "text3 1.5 true"),
        ("a  {{- .S -}}  b", "atextb"),
        ("a\n{{- /* a comment */ -}}\n b{{/* {{ .S }} */}}c", "abc"),
        ("{{-3}} {{ -3 }}", "-3 -3"),
        ("{{ .Missing }}|{{ .M.missing }}", "<no value>|<no value>"),
        ("{{ if .Empty }}no{{ else if .None }}no{{ else if 0 }}no{{ else }}yes{{ end }}", "yes"),
        ("{{ if .S }}{{ if .Missing }}1{{ else }}2{{ end }}{{ end }}", "2"),
        ("{{ with .M.a }}{{ .b }}{{ $.S }}{{ else }}none{{ end }}", "deeptext"),
        ("{{ with .Empty }}x{{ else with .S }}{{ . }}{{ end }}", "text"),
        ("{{ range .L }}{{ . }},{{ end }}", "a,b,c,"),
        ("{{ range $i, $e := .L }}{{ $i }}{{ $e }}{{ end }}", "0a1b2c"),
        ("{{ range $e := .L }}{{ $e }}{{ . }}{{ end }}", "aabbcc"),
        ("{{ range $k, $v := .M }}{{ $k }} {{ end }}", "a z "),
        ("{{ range .None }}x{{ else }}none{{ end }}{{ range .Missing }}x{{ else }}nil{{ end }}", "nonenil"),
        ("{{ range 3 }}{{ . }}{{ end }}", "012"),
        ('{{ range .L }}{{ if eq . "b" }}{{ continue }}{{ end }}{{ . }}{{ end }}', "ac"),
        ('{{ range .L }}{{ if eq . "b" }}{{ break }}{{ end }}{{ . }}{{ else }}no{{ end }}', "a"),
        ("{{ $x := 1 }}{{ range .L }}{{ $x = . }}{{ end }}{{ $x }}", "c"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21"),
        ('{{ $x := .M }}{{ $x.a.b }}{{ (index .L 1) }}{{ (index $x "a").b }}', "deepbdeep"),
        ('{{ .L | len | printf "%03d-%s" 7 }}', "007-%!s(int=3)"),
        ('{{ printf "%s %d %v %q %5.2f|%-4s|%t" .S .N .L .S .F "a" .T }}', 'text 3 [a b c] "text"  1.50|a   |true'),
        ('{{ print 1 2 "a" 3 4 }}|{{ println .S 1 }}', "1 2a3 4|text 1\n"),
        ("{{ and .S .N }} {{ and .Empty .Missing.x }}", "3 "),
        ("{{ or .Empty .S }} {{ or .S .Missing.x }} {{ not .S }}", "text text false"),
        ("{{ and 1 2 | or 0 }}", "2"),
        ('{{ eq .N 3 }} {{ eq .S "a" "text" }} {{ ne 1 2 }} {{ lt 1 2 }}', "true true true true"),
        ('{{ le 2 2 }} {{ gt "b" "a" }} {{ ge 1 2 }}', "true true false"),
        ('{{ len .L }}{{ len "é" }}{{ len .M }}', "322"),
        ("{{ slice .L 1 }}{{ slice .L 1 2 }}{{ slice .S 1 3 }}", "[b c][b]ex"),
        ('{{ index .L 0 }}{{ index .M "z" }}{{ index .M "a" "b" }}', "a1deep"),
        ("{{ .X.Name }}{{ range .X.Tags }}{{ . }}{{ end }}{{ .X }}", "xpq{x [p q]}"),
        ("{{ .M }}", "map[a:map[b:deep] z:1]"),
        ("{{ .J }}", '{"a":[1,null,2,true],"b":"\\u003c\\u0026\\u003e"}'),
        ("{{ json .L }}|{{ json .Missing }}|{{ .Types }}{{ json .Types }}", '["a","b","c"]|null|string"string"'),
        ("{{ 1e3 }} {{ 0x10 }} {{ 'a' }} {{ 1_000 }} {{ 2.50 }}", "1000 16 97 1000 2.5"),
        (r"""{{ `raw\n` }} {{ "q\"\u00e9\x41" }}""", r"""raw\n q"éA"""),
        ("{{ 1000000000000000000000.0 }} {{ 0.00001 }} {{ 123456789.0 }}", "1e+21 1e-05 1.23456789e+08"),
        ('{{ define "t" }}<{{ . }}{{ $ }}>{{ end }}{{ template "t" .S }}', "<texttext>"),
        ('{{ define "t" }}<{{ . }}>{{ end }}{{ template "t" }}', "<<no value>>"),
        ('{{ block "b" .N }}{{ . }}{{ end }}', "3"),
        ("{{ currentDate }} {{ yesterdayDate }}", "2025-03-01 2025-02-28"),
        ('{{ html "<a>" }}{{ urlquery "a b&" }}', "&lt;a&gt;a+b%26"),
        ("{{ nil | print }}", None),
        ("{{ if (and (eq .N 3) (or .Empty (not .Empty))) }}ok{{ end }}", "ok"),
        ("{{- range $i, $_ := .L }}{{ $last := eq (len (slice $.L $i)) 1 }}{{ if $last }}end{{ end }}{{ end }}", "end"),
    ],
)
def test_templates_print_what_go_prints(source: str, printed: str | None) -> None:
    if printed is None:
        with pytest.raises(TemplateError):
            run(source)
    else:
        assert run(source) == printed


@pytest.mark.parametrize(
    ("source", "line", "reason"),
    [
        ("a\n{{ if .S }}", 2, "without"),
        ("{{ end }}", 1, "unexpected {{end}}"),
        ("{{ else }}", 1, "unexpected {{else}}"),
        ("\n\n{{ nope .S }}", 3, "function 'nope' not defined"),
        ("{{ $x }}", 1, "undefined variable '$x'"),
        ("{{ if true }}{{ $x := 1 }}{{ end }}{{ $x }}", 1, "undefined variable"),
        ("{{ .S", 1, "unclosed action"),
        ('{{ "abc }}', 1, "unterminated string"),
        ("{{ /* x }}", 1, "unexpected"),
        ("{{/* x }}", 1, "unclosed comment"),
        ("{{ break }}", 1, "outside"),
        ("{{ }}", 1, "missing"),
        ("{{ .S | }}", 1, "missing"),
        ("{{ .S | 3 }}", 1, "can't follow a pipe"),
        ("{{ (.S }}", 1, "unclosed parenthesis"),
        ("{{ .S.x }}", 1, "can't evaluate field x in type string"),
        ("{{ .X.Nope }}", 1, "can't evaluate field Nope in type main.T"),
        ("\n{{ .Missing.x }}", 2, "nil pointer"),
        ("{{ .S 1 }}", 1, "can't give argument"),
        ("{{ index .L 9 }}", 1, "out of range"),
        ("{{ slice .L 2 1 }}", 1, "invalid slice index"),
        ("{{ len 3 }}", 1, "len of type int"),
        ('{{ eq 1 "1" }}', 1, "incompatible types"),
        ("{{ lt true 1 }}", 1, "invalid type"),
        ("{{ range .S }}{{ end }}", 1, "can't iterate over string"),
        ('{{ template "none" }}', 1, "not defined"),
        ("{{ not 1 2 }}", 1, "wrong number of args"),
        ("{{ and }}", 1, "wrong number of args"),
        ("{{ 'ab' }}", 1, "malformed literal"),
    ],
)
def test_faults_name_the_line_and_the_reason(source: str, line: int, reason: str) -> None:
    with pytest.raises(TemplateError) as caught:
        run(source)
    assert f"line {line}: " in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ range 1000000000 }}{{ end }}",
        "{{ range 100000 }}{{ range 100000 }}x{{ end }}{{ end }}",
        '{{ define "t" }}{{ template "t" }}{{ end }}{{ template "t" }}',
        '{{ define "u" }}{{ range 1000 }}{{ template "v" }}{{ end }}{{ end }}'
        '{{ define "v" }}{{ range 100000 }}y{{ end }}{{ end }}{{ template "u" }}',
        '{{ printf "%999999999d" 1 }}',
        '{{ printf "%.999999999f" 1.0 }}',
        '{{ $x := "aaaaaaaa" }}{{ range 100 }}{{ $x = print $x $x }}{{ end }}',
        "(" * 10 + "{{ " + "(" * 100_000,
        "{{ if true }}" * 20_000,
        "x" * (1 << 21),
    ],
    ids=["count", "nested", "recursive", "fan", "width", "precision", "doubling", "parens", "ifs", "long"],
)
def test_hostile_templates_come_to_an_end(source: str) -> None:
    with pytest.raises(TemplateError):
        run(source)


@given(st.text(alphabet=st.sampled_from(list("{}-. $|():=\"`'\\n/*ifendrangwthlsb1")), max_size=60))
def test_any_text_parses_or_is_refused(source: str) -> None:
    for template in (source, "{{ " + source):
        with contextlib.suppress(TemplateError):
            assert isinstance(run(template), str)
