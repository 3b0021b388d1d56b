"""Whether a method can work over the relation of teacher and student classes, and which other one can."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation
from gkd.losses.signature import Filled
from gkd.methods.method import Method
from gkd.methods.readers import teachers_of
from gkd.methods.terms import Term

# Teacher against student classes; of several teachers by name, the first being the one that a term reads without
# naming it. None where there is no teacher.
Relations = LabelRelation | Mapping[str, LabelRelation] | None


def refusal(method: Method, relations: Relations) -> str | None:
    """The reason why a method cannot work over a relation; None where it can.

    Args:
        method: the method as resolved.
        relations: teacher against student classes.
    """
    ends = _refused_head(method, relations)
    if ends is not None:
        return ends
    for stage_name, stage in method.stages.items():
        terms = fitting_terms(stage.terms, relations)
        if not terms:
            return (
                f"The method {method.name!r} has no term left in its stage {stage_name!r}: "
                f"{'; '.join(_reasons(stage.terms))}."
            )
        for term_name, term in terms.items():
            where = f"{method.name!r} (term {term_name!r} of stage {stage_name!r})"
            if term.needs_teacher and not relations:
                return f"The method {where} needs a teacher, but the experiment has none."
            for teacher, relation in _read(term_name, term, relations):
                reason = _refused(term, relation, where, teacher)
                if reason is not None:
                    return reason
    return None


def _refused_head(method: Method, relations: Relations) -> str | None:
    """The reason why a student cannot end in its (first) teacher's head."""
    if method.head != "teacher" or not relations:
        return None
    relation = relations if isinstance(relations, LabelRelation) else next(iter(relations.values()))
    if relation.kind == "same":
        return None
    return (
        f"The method {method.name!r} ends the student in its teacher's head, whose classes must be the student's, but "
        f"the teacher has {len(relation.teacher)}, the student {len(relation.student)}, and they share "
        f"{relation.num_shared}."
    )


def fitting_terms(terms: Mapping[str, Term], relations: Relations) -> dict[str, Term]:
    """The terms of a stage that stay over a relation: without those whose ``where`` it does not meet.

    Of a term over several teachers those stay that meet it.

    Args:
        terms: by name, as the stage lists them.
        relations: teacher against student classes.
    """
    fitting: dict[str, Term] = {}
    for name, term in terms.items():
        if term.where is None or not relations:
            fitting[name] = term
        elif isinstance(relations, LabelRelation):
            fitting |= {name: term} if _meets(term, relations) else {}
        else:
            read = teachers_of(name, term, list(relations))
            able = tuple(teacher for teacher in read if _meets(term, relations[teacher]))
            if able == read:
                fitting[name] = term
            elif able:
                fitting[name] = term.model_copy(update={"teacher": able})
    return fitting


def fitting_method(method: Method, relations: Relations) -> Method:
    """The method with the terms of each stage that stay over a relation; itself where all do."""
    terms = {name: fitting_terms(stage.terms, relations) for name, stage in method.stages.items()}
    if all(terms[name] == stage.terms for name, stage in method.stages.items()):
        return method
    stages = {name: stage.model_copy(update={"terms": terms[name]}) for name, stage in method.stages.items()}
    return method.model_copy(update={"stages": stages})


def left_out(method: Method, relations: Relations) -> Iterator[str]:
    """A sentence for each stage, and each condition, on the terms that a relation leaves out."""
    for name, stage in method.stages.items():
        fitting = fitting_terms(stage.terms, relations)
        missing = {term: stage.terms[term] for term in sorted(stage.terms) if term not in fitting}
        for reason, terms in _reasons(missing).items():
            yield f"the method {method.name} goes without {', '.join(terms)} in its stage {name}, for {reason}"


def _meets(term: Term, relation: LabelRelation) -> bool:
    """Whether the relation to one teacher is what a term's ``where`` asks for."""
    return relation.num_shared > 1 and (term.where == "shared" or relation.overlap == 1)


def _reasons(terms: Mapping[str, Term]) -> dict[str, list[str]]:
    """Why terms are left out -> their names."""
    reasons: dict[str, list[str]] = {}
    for name, term in terms.items():
        if term.where == "shared":
            reason = "teacher and student share fewer than two classes"
        else:
            reason = "the teacher lacks classes of the student's"
        reasons.setdefault(reason, []).append(name)
    return reasons


def _read(name: str, term: Term, relations: Relations) -> Iterator[tuple[str, LabelRelation]]:
    """What a sentence calls each teacher that a term reads, or else the first, and its relation."""
    if isinstance(relations, LabelRelation):
        yield "teacher", relations
    elif relations:
        for teacher in teachers_of(name, term, list(relations)) or list(relations)[:1]:
            yield f"teacher {teacher!r}", relations[teacher]


def _refused(term: Term, relation: LabelRelation, where: str, teacher: str) -> str | None:
    """The reason why a term cannot work over the relation of one teacher."""
    if relation.kind == "none" and term.reads_teachers_columns:
        return (
            f"The method {where} reads the teacher's logits, but the {teacher} has no classes (teacher.classes names "
            "those of its columns)."
        )
    if term.needs_shared_classes:
        if relation.num_shared == 0:
            return f"The method {where} compares logits class by class, but {teacher} and student share no class."
        if relation.num_shared < 2:
            return (
                f"The method {where} compares logits over the shared classes, but {teacher} and student share only "
                "one; a softmax needs at least two."
            )
        if relation.overlap < 1 and Filled.MASK not in term.entry.filled:
            return (
                f"The method {where} must leave out images of classes that the {teacher} does not have, but its loss "
                "takes no mask: give it a keyword mask: gkd.losses.Mask = None."
            )
    if term.needs_new_classes and relation.overlap == 1:
        return f"The method {where} is on the classes that the {teacher} does not have, but it has them all."
    return None


def require(
    method: Method,
    relations: Relations,
    others: Callable[[], Mapping[str, Method]],
    *,
    tried: bool = True,
) -> None:
    """Refuse a method that cannot work over the relation, naming those of ``others`` (read only then) that can.

    ``tried`` says whether others are tried on the networks, too.
    """
    reason = refusal(method, relations)
    if reason is None:
        return
    fitting = sorted(name for name, other in others().items() if refusal(other, relations) is None)
    label = (
        "Methods that work here"
        if tried
        else "Methods that the classes allow, not tried on networks of your own"
    )
    advice = f"{label}: {', '.join(fitting)}." if fitting else "No shipped method works here."
    raise UserError(f"{reason} {advice}", code="method-not-applicable")
