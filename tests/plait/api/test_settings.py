import inspect
from typing import Literal, get_args, get_origin

import plait.api.settings as api_settings
from plait.api.settings import RunSettings, run_config_of
from plait.api.simulate import simulate
from plait.config import RunConfig, config_from_table


def test_every_setting_of_a_run_is_an_argument_and_nothing_else_is():
    """Who adds a setting to `RunConfig` adds it to `RunSettings` too."""
    named = set(inspect.signature(simulate).parameters) - {"tokenizer", "quiet", "settings"}
    assert RunConfig.model_fields.keys() == named | RunSettings.__annotations__.keys()
    assert not named & RunSettings.__annotations__.keys()


def test_bits_and_paths_are_written_as_the_command_line_has_them(tmp_path):
    config = run_config_of({"bits": 1.5, "out": tmp_path, "rounds": None})
    assert (config.bits, config.out, config.rounds) == ("1.5", str(tmp_path), RunConfig().rounds)


def test_earlier_names_of_settings_are_read_in_programs_and_files():
    flat = run_config_of({"wire": 1.5, "own_share": 0.2, "keep": "last", "out": "x"})
    tables = {"wire": "1.5", "learning": {"own-share": 0.2}, "evaluation": {"keep": "last"}, "out": "x"}
    assert flat == config_from_table(tables)
    assert (flat.bits, flat.personalize, flat.select) == ("1.5", 0.2, "last")


def test_choices_are_those_of_the_settings():
    for name, field in RunConfig.model_fields.items():
        if get_origin(field.annotation) is Literal:
            named = eval(RunSettings.__annotations__[name].__forward_arg__, vars(api_settings))
            assert get_args(named) == get_args(field.annotation)


def test_a_client_of_a_program_has_every_option_of_the_command():
    from client.program import Client
    from client.settings import CommandOptions, NodeOptions

    # A program consents by making the client.
    named = inspect.signature(Client).parameters.keys() - {"tokenizer", "quiet", "options"}
    assert NodeOptions.__annotations__.keys() | named == CommandOptions.__annotations__.keys() - {"yes"}


def test_the_verbs_functions_have_their_options():
    from plait.api.evaluate import EvaluationSizes, evaluate
    from plait.cli.adapter import evaluate as verb

    options = set(inspect.signature(verb).parameters) - {"json_output"}
    arguments = inspect.signature(evaluate).parameters.keys() | EvaluationSizes.__annotations__.keys()
    assert options == arguments - {"tokenizer", "quiet", "sizes"}
