"""The part of a method that trains the first step of an incremental run, in which no class is old."""

from __future__ import annotations

from collections.abc import Sequence

from gkd.methods.method import Method
from gkd.methods.readers import teachers_of
from gkd.methods.routing import Routing
from gkd.methods.stage import WITHOUT_LABELS
from gkd.methods.term_checks import ONLY, PREVIOUS


def without_teacher(method: Method, beside: Sequence[str] = ()) -> Method:
    """The method without the terms that need a teacher, for the first step of an incremental run.

    Terms that read a teacher or an auxiliary head go, and with them stages that have no other; so does balanced
    fine-tuning, for no class is old. A stage whose other terms read labels goes without unlabelled images. Where no
    term is left, the first stage is cross-entropy alone.

    Args:
        method: the method.
        beside: named teachers that stand beside the steps' models; terms that read them stay, and read them alone.
    """
    names = (PREVIOUS, *beside) if beside else (ONLY,)
    content = method.model_dump()
    stages = {}
    for name, stage in method.stages.items():
        terms, readers = {}, {}
        for key, term in stage.terms.items():
            read = teachers_of(key, term, names)
            readers[key] = [teacher for teacher in read if teacher != names[0]]
            if term.head != "auxiliary" and (readers[key] or not term.needs_teacher):
                terms[key] = term
        if terms and stage.data != "balanced-memory":
            section = content["stages"][name]
            section["terms"] = {key: section["terms"][key] for key in terms}
            for key, term in terms.items():
                if isinstance(term.teacher, tuple):
                    section["terms"][key]["teacher"] = readers[key]
            section.update(start="last", spots=Routing().model_dump())
            if all(term.reads_labels for term in terms.values()):  # none is left that can do without labels
                section.pop("unlabelled_share")
                section["data"] = "all" if stage.data in WITHOUT_LABELS else stage.data
            if all(term.samples == "clean" for term in terms.values()):
                section["mixup"] = None
            stages[name] = section
    if not stages:
        name, first = next(iter(content["stages"].items()))
        stages[name] = {key: first[key] for key in ("epochs", "share", "optimiser")}
        stages[name]["terms"] = {"cross_entropy": {"loss": "cross_entropy"}}
    return Method.model_validate({**content, "stages": stages})
