"""Plug-ins by entry point: listed without an import, one name one plug-in, a failing import in one sentence."""

import pytest

from gkd.core import plugins
from gkd.core.errors import UserError


def test_names_are_listed_without_an_import_and_loaded_when_used(offer):
    offer("gkd.losses", ("mine", "json:dumps"), ("absent", "no_such_module_anywhere:loss"))
    assert list(plugins.entry_point_table("gkd.losses")) == ["mine", "absent"]
    assert plugins.entry_point_table("gkd.networks") == {}
    assert plugins.load_plugin("gkd.losses", "mine", what="loss")([1]) == "[1]"
    with pytest.raises(
        UserError, match="'absent' of the package unknown cannot be imported from no_such_mod"
    ):
        plugins.load_plugin("gkd.losses", "absent", what="loss")


def test_a_name_that_two_have_is_refused_when_it_is_used(offer):
    offer("gkd.losses", ("kd", "json:dumps"), ("two", "json:dumps"), ("two", "json:loads"))
    with pytest.raises(UserError, match=r"'kd' is gkd's, and the package .*json:dumps.* rename it there"):
        plugins.load_plugin("gkd.losses", "kd", what="loss", ours={"kd"})
    with pytest.raises(
        UserError, match=r"by .*\(json:dumps\) and by .*\(json:loads\); uninstall all but one"
    ):
        plugins.load_plugin("gkd.losses", "two", what="loss", ours={"kd"})
