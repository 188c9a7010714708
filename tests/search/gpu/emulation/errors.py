"""What the emulation says of a wrong launch or a wrong kernel."""


class EmulationError(RuntimeError):
    """What a card would answer with an error, a hang or nonsense: says where."""
