"""The list of mutations is about the code as it is."""

import mutations
import pytest


@pytest.mark.parametrize("function", mutations.FUNCTIONS, ids=lambda function: function.name)
def test_changes_are_of_code_that_is_there_and_their_tests_too(function):
    for file, right, wrong in function.changes:
        assert right != wrong and right in (mutations.ROOT / "jaxalign" / file).read_text(), (file, right)
    for test in function.tests.split():
        assert not test.startswith("tests") or (mutations.ROOT / test.partition("::")[0]).exists(), test
