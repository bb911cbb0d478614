from plait import errors

# What scripts may rely on: 2 is the user's, 3 a peer's or the data's, 1 anything else.
EXIT_CODES = {
    "PlaitError": 1,
    "ConfigError": 2,
    "DataError": 3,
    "TooLittleDataError": 3,
    "PartError": 2,
    "PeerError": 3,
    "BaseMismatchError": 3,
    "PolicyError": 3,
    "MachineError": 1,
    "DiskFullError": 1,
    "RunInterrupted": 130,
    "Abandoned": 1,
}
CLASSES = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
}


def test_every_error_has_its_exit_code():
    assert {name: kind.exit_code for name, kind in CLASSES.items()} == EXIT_CODES


def test_errors_of_different_parties_are_not_caught_for_each_other():
    parties = [errors.ConfigError, errors.DataError, errors.PeerError, errors.MachineError, errors.RunInterrupted]
    assert not [(a, b) for a in parties for b in parties if a is not b and issubclass(a, b)]
