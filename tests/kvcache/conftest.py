"""How long hypothesis looks for a counterexample: with `--hypothesis-profile=long`, for minutes."""

from hypothesis import settings

settings.register_profile("long", max_examples=5000, stateful_step_count=100, deadline=None, print_blob=True)
