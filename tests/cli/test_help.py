"""Help: quick, with an example for every command, and each sentence written once."""

import subprocess
import sys
from dataclasses import fields

import pytest

import headwater as hw
from cli.conftest import headwater
from headwater.cli.app import COMMANDS, load_command
from headwater.methods import all_methods
from headwater.training.settings import TrainSettings

_TRY = """
import sys
from headwater.cli import main
sys.argv = ["headwater", {argument!r}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert not {{"torch", "transformers", "pandas", "datasets"}} & set(sys.modules), "a slow library was imported"
"""


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_the_first_help_imports_no_slow_library(argument: str) -> None:
    done = subprocess.run([sys.executable, "-c", _TRY.format(argument=argument)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert hw.__version__ in done.stdout if argument == "--version" else all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_an_example_and_its_summary(name: str) -> None:
    shown = headwater(name, "--help")
    assert shown.code == 0 and "Example" in shown.stdout and f"headwater {name}" in shown.stdout
    assert load_command(name).help.split("\n\n")[0] == COMMANDS[name].summary
    assert "--json" in shown.stdout


def test_a_setting_is_described_where_it_is_defined() -> None:
    helps = {option.name: option.help for option in load_command("train").params}
    for field in fields(TrainSettings):
        assert _plain(helps[field.name]).startswith(field.metadata["help"]), field.name


@pytest.mark.parametrize("command", ["query", "scores"])
def test_every_option_of_every_method_is_offered(command: str) -> None:
    helps = {option.name: option.help for option in load_command(command).params}
    for method in all_methods():
        for field in fields(method.options):
            said = field.metadata["off" if field.default is True and "off" in field.metadata else "help"]
            assert said in _plain(helps[field.name]), field.name


def test_an_option_says_of_which_methods_it_is() -> None:
    helps = {option.name: _plain(option.help) for option in load_command("query").params if option.help}
    assert helps["max_words"].endswith("(tracin-we)")
    assert helps["layers"].endswith("(methods over layers)")
    assert "trackstar: " in helps["second_moments"] and "tracin-we: " in helps["second_moments"]


def _plain(markup: str) -> str:
    from rich.text import Text

    return Text.from_markup(markup).plain


def test_a_mistyped_command_is_bad_usage() -> None:
    called = headwater("qeury")
    assert called.code == 2 and called.stdout == "" and "query" in called.stderr
