from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import Command, Modelfile, ModelfileError


def parsed(text: str | bytes) -> list[tuple[str, str, str]]:
    return [(command.keyword, command.key, command.value) for command in Modelfile.parse(text).commands]


def after_from(text: str) -> tuple[str, str, str]:
    first, second = parsed(f"FROM foo\n{text}")
    assert first == ("from", "", "foo")
    return second


def test_every_command_is_read_in_order_and_in_any_case() -> None:
    text = """
# a comment
from model1
  Adapter adapter1
LICENSE MIT
PARAMETER temperature 0.5
PARAMETER stop <|im_end|>
TEMPLATE \"\"\"{{ .System }}

{{ .Prompt }}\"\"\"
SYSTEM You are # no comment
MESSAGE user Hey: there!
MESSAGE assistant Hello
REQUIRES 0.14.0
RENDERER r
PARSER p
"""
    assert parsed(text) == [
        ("from", "", "model1"),
        ("adapter", "", "adapter1"),
        ("license", "", "MIT"),
        ("parameter", "temperature", "0.5"),
        ("parameter", "stop", "<|im_end|>"),
        ("template", "", "{{ .System }}\n\n{{ .Prompt }}"),
        ("system", "", "You are # no comment"),
        ("message", "user", "Hey: there!"),
        ("message", "assistant", "Hello"),
        ("requires", "", "0.14.0"),
        ("renderer", "", "r"),
        ("parser", "", "p"),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('FROM "FOO  BAR  "', "FOO  BAR  "),
        ("FROM     FOOO BAR    ", "FOOO BAR"),
        ("FROM\tfoo\t", "foo"),
        ("FROM llama3:7b-instruct-q4_K_M", "llama3:7b-instruct-q4_K_M"),
        ("FROM foo\r\n", "foo"),
        ("\ufeffFROM foo", "foo"),
    ],
)
def test_from_is_trimmed_outside_quotes_only(text: str, value: str) -> None:
    assert parsed(text) == [("from", "", value)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('SYSTEM """\nThis is a\nmultiline system.\n"""\n   ', "\nThis is a\nmultiline system.\n"),
        ('SYSTEM """This is a\nmultiline system."""', "This is a\nmultiline system."),
        ('SYSTEM """One line."""  ', "One line."),
        ('SYSTEM "two\n\nlines"', "two\n\nlines"),
        ('SYSTEM """with "quotes".\n"""', 'with "quotes".\n'),
        ('SYSTEM """"""', ""),
        ('SYSTEM ""', ""),
        ("SYSTEM ", ""),
        ('SYSTEM "\'"', "'"),
        ('SYSTEM """\'\'"\'""\'""\'"\'\'\'\'\'""\'""\'"""', "''\"'\"\"'\"\"'\"'''''\"\"'\"\"'"),
        ('SYSTEM """\nFROM bar\n"""', "\nFROM bar\n"),
        ('SYSTEM say "hi"', 'say "hi"'),
        ('SYSTEM "a" b\nc"', 'a" b\nc'),
        ('SYSTEM """a\r\nb"""', "a\r\nb"),
        ("SYSTEM 👩‍🚀 ok", "👩‍🚀 ok"),
    ],
)
def test_quotes_may_span_lines(text: str, value: str) -> None:
    assert after_from(text) == ("system", "", value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("stop ### User: ", "### User:"),
        ('stop "### User: "', "### User: "),
        ('stop """### User:\n"""', "### User:\n"),
        ("  stop   </s>", "</s>"),
    ],
)
def test_parameters_keep_what_is_quoted(text: str, value: str) -> None:
    assert after_from(f"PARAMETER {text}") == ("parameter", "stop", value)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 0, "no FROM line"),
        ("PARAMETER temperature 1", 0, "no FROM line"),
        ("\nFROM foo\nBADCOMMAND param1 value1\n", 3, "command must be one of"),
        ("FROM foo\r\n\r\nBAD x\r\n", 3, "command must be one of"),
        ("FROM foo\nMESSAGE badguy I'm bad", 2, "message role must be one of"),
        ("FROM foo\nMESSAGE system\n", 2, "a value must follow"),
        ("FROM foo\nMESSAGE system", 2, "a value must follow"),
        ("FROM foo\nPARAMETER param1\n", 2, "a value must follow"),
        ("FROM foo\nPARAMETER par-am 1\n", 2, "unexpected character '-'"),
        ("FROM\nfoo", 1, "a value must follow"),
        ("FROM foo\nFROM ", 2, "FROM needs a model or a file"),
        ('FROM foo\n\nSYSTEM """\nunclosed\n"" ', 3, "never closed"),
        ('FROM foo\nSYSTEM "', 2, "never closed"),
        ('FROM foo\nSYSTEM """"', 2, "never closed"),
        ("FROM foo\nSYS\x00TEM x", 2, "unexpected character"),
    ],
)
def test_errors_name_the_line(text: str, line: int, message: str) -> None:
    with pytest.raises(ModelfileError) as caught:
        Modelfile.parse(text)
    assert (caught.value.line, message in str(caught.value)) == (line, True), str(caught.value)
    assert str(caught.value).startswith(f"(line {line}): " if line else message)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "utf-16-be", "utf-8"])
def test_bytes_may_carry_a_byte_order_mark(encoding: str) -> None:
    mark = "\ufeff" if encoding.startswith("utf-16") else ""
    assert parsed((mark + "FROM bob\nSYSTEM grüße").encode(encoding))[1] == ("system", "", "grüße")


# Weighted towards what quoting rules stumble over.
tricky = st.text(st.sampled_from('"""\'\'ab#\n\n\r \t\v\xa0\u2003é👩\u200d{}') | st.characters(), max_size=30)
commands = st.one_of(
    st.builds(Command, st.sampled_from(["license", "template", "system", "adapter", "renderer", "requires"]), tricky),
    st.builds(Command, st.just("parameter"), tricky, st.sampled_from(["stop", "num_ctx", "x_1"])),
    st.builds(Command, st.just("message"), tricky, st.sampled_from(["system", "user", "assistant"])),
)


@given(st.lists(commands, max_size=4))
def test_what_can_be_written_is_read_back_the_same(made: list[Command]) -> None:
    modelfile = Modelfile((Command("from", "foo"), *made))
    try:
        text = modelfile.render()
    except ModelfileError:
        return
    assert Modelfile.parse(text) == modelfile


@given(st.lists(st.tuples(st.sampled_from(["SYSTEM ", "template  ", "PARAMETER stop ", "#"]), tricky), max_size=4))
def test_whatever_was_read_can_be_written_and_read_again(lines: list[tuple[str, str]]) -> None:
    try:
        modelfile = Modelfile.parse("FROM foo\n" + "\n".join(start + value for start, value in lines))
    except ModelfileError:
        return
    assert Modelfile.parse(modelfile.render()) == modelfile


@given(st.text(max_size=60))
def test_any_text_parses_or_is_a_modelfile_error(text: str) -> None:
    with contextlib.suppress(ModelfileError):
        Modelfile.parse(text)


def test_a_value_that_no_quoting_can_express_is_refused() -> None:
    with pytest.raises(ModelfileError, match="no quoting"):
        Modelfile((Command("system", 'a """\nb'),)).render()


@pytest.mark.parametrize("filler", ["\n", " ", "\v", '"\n"', "a \n", '""\n', "\u2003\n"])
def test_a_hostile_modelfile_takes_time_in_proportion_to_its_length(filler: str) -> None:
    text = 'FROM foo\nSYSTEM """' + filler * (1_000_000 // len(filler))
    started = time.process_time()
    with pytest.raises(ModelfileError):
        Modelfile.parse(text)
    assert time.process_time() - started < 5
