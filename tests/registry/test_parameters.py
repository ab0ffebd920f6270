from __future__ import annotations

import pytest

from registry import InvalidParameter, check_parameters, parse_parameters
from registry.errors import UnsupportedModel
from registry.parameters import decode_parameters


def test_modelfile_parameters_get_their_types_and_stops_add_up() -> None:
    pairs = [
        ("temperature", "1"),
        ("num_ctx", "4096"),
        ("stop", "a"),
        ("use_mmap", "true"),
        ("stop", "b"),
        ("num_ctx", "8192"),
        ("numa", "true"),
    ]
    typed = parse_parameters(pairs)
    assert typed == {"temperature": 1.0, "num_ctx": 8192, "stop": ["a", "b"], "use_mmap": True}
    assert isinstance(typed["temperature"], float)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("unknown", "1", "unknown parameter 'unknown'"),
        ("num_ctx", "many", "invalid int value 'many' for num_ctx"),
        ("num_ctx", "1.5", "invalid int value '1.5' for num_ctx"),
        ("num_ctx", str(1 << 63), "parameter 'num_ctx' must be an integer"),
        ("temperature", "hot", "invalid float value 'hot' for temperature"),
        ("temperature", "nan", "parameter 'temperature' must be a number"),
        ("use_mmap", "perhaps", "invalid bool value 'perhaps' for use_mmap"),
    ],
)
def test_a_wrong_parameter_is_named(name: str, text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_parameters([(name, text)])
    assert (caught.value.name, str(caught.value)) == (name, message)


def test_json_parameters_are_checked_and_a_single_stop_is_a_list() -> None:
    given = {"num_ctx": 2048.0, "temperature": 0, "stop": "x", "top_k": None, "f16_kv": True}
    assert check_parameters(given) == {"num_ctx": 2048, "temperature": 0.0, "stop": ["x"]}
    for bad in ({"num_ctx": "1"}, {"num_ctx": True}, {"stop": [1]}, {"temperature": [0.1]}, {"top_k": 1.5}, {"x": 1}):
        with pytest.raises(InvalidParameter):
            check_parameters(bad)


def test_a_stored_blob_of_any_age_is_read_as_far_as_it_makes_sense() -> None:
    stored = b'{"stop":["<|end|>"],"num_gqa":8,"rope_frequency_base":1e6,"temperature":"hot","num_ctx":4096}'
    assert decode_parameters(stored) == {"stop": ["<|end|>"], "num_ctx": 4096}
    for broken in (b"", b"[]", b'{"a":', b"\xff" * 9, b"[" * 100_000):
        with pytest.raises(UnsupportedModel):
            decode_parameters(broken)
