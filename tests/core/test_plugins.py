"""Plug-ins by entry point: listed without an import, one name one plug-in, a failing import in one sentence."""

from gkd.core import plugins
from tests.refusals import refused


def test_names_are_listed_without_an_import_and_loaded_when_used(offer):
    offer("gkd.losses", ("mine", "json:dumps"), ("absent", "no_such_module_anywhere:loss"))
    assert list(plugins.entry_point_table("gkd.losses")) == ["mine", "absent"]
    assert plugins.entry_point_table("gkd.networks") == {}
    assert plugins.load_plugin("gkd.losses", "mine", what="loss")([1]) == "[1]"
    with refused("import-failed"):
        plugins.load_plugin("gkd.losses", "absent", what="loss")


def test_a_name_that_two_have_is_refused_when_it_is_used(offer):
    offer("gkd.losses", ("kd", "json:dumps"), ("two", "json:dumps"), ("two", "json:loads"))
    with refused("plugin-name-taken"):
        plugins.load_plugin("gkd.losses", "kd", what="loss", ours={"kd"})
    with refused("plugin-twice"):
        plugins.load_plugin("gkd.losses", "two", what="loss", ours={"kd"})
