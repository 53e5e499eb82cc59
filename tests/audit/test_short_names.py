"""Demangled names of torch, in the room of a line."""

from __future__ import annotations

import pytest

from torch_build_farm.audit.short_names import shortened, shortened_list

STRING = "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >"
WRAP = (
    "torch::autograd::_wrap_outputs(std::vector<at::Tensor, std::allocator<at::Tensor> > const&, std::function<int ()>)"
)


@pytest.mark.parametrize(
    ("name", "room", "expected"),
    [
        ("c10::SymInt::sym_ne(c10::SymInt const&) const", 60, "c10::SymInt::sym_ne(c10::SymInt const&) const"),
        (f"c10::detail::torchCheckFail(char const*, {STRING} const&)", 90,
         "c10::detail::torchCheckFail(char const*, std::string const&)"),
        (WRAP, 100, "torch::autograd::_wrap_outputs(std::vector<at::Tensor> const&, std::function<int ()>)"),
        (WRAP, 80, "torch::autograd::_wrap_outputs(std::vector<...> const&, std::function<...>)"),
        (WRAP, 50, "torch::autograd::_wrap_outputs(...)"),
        (WRAP, 25, "torch::autograd::_wrap..."),
        ("a::operator<<(b<c<d> > const&, e)", 25, "a::operator<<(...)"),
        ("a::operator()(b<c<d> >, long_name_of_a_type) const", 30, "a::operator()(...) const"),
        ("a::f()", 20, "a::f()"),
        ("_Z" + "x" * 300, 30, "_Z" + "x" * 25 + "..."),
    ],
)  # fmt: skip
def test_what_tells_least_goes_first(name: str, room: int, expected: str) -> None:
    assert shortened(name, room) == expected


def test_as_many_names_as_fit() -> None:
    names = ["a::first()", "b::second()", "c::third()"]
    assert shortened_list(names, 3, 80) == "a::first(), b::second(), c::third()"
    assert shortened_list(names, 9, 40) == "a::first(), b::second() and 7 more"
    assert shortened_list(names, 9, 22) == "a::first() and 8 more"
    assert len(shortened_list([WRAP, *names], 4, 60)) <= 60


def test_hostile_names_have_no_more_room() -> None:
    for name in ("<" * 20_000, "std::allocator<" * 3000, ", std::allocator<x> >" * 1500, "(" * 9000 + ")" * 9000):
        assert len(shortened(name, 80)) <= 80
