"""Which of several teachers the terms of a method read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from gkd.core.errors import UserError, unknown
from gkd.methods.method import Method
from gkd.methods.term_checks import ALL
from gkd.methods.terms import Term


def teachers_of(name: str, term: Term, teachers: Sequence[str]) -> tuple[str, ...]:
    """The teachers that a term reads, none where it reads no teacher.

    Args:
        name: the term's, for messages.
        term: the term.
        teachers: those that there are, the first being the one that a term reads without naming it.

    Raises:
        UserError: a term that reads a teacher where there is none, or names one that there is not.
    """
    if not term.needs_teacher:
        return ()
    if not teachers:
        raise UserError(
            f"The term {name!r} reads {', '.join(term.needs)}, but there is no teacher.", code="needs-teacher"
        )
    if term.teacher is None:
        return (teachers[0],)
    if term.teacher == ALL:
        return tuple(teachers)
    named = (term.teacher,) if isinstance(term.teacher, str) else term.teacher
    for each in named:
        if each not in teachers:
            raise UserError(
                f"The term {name!r}: {unknown('teacher', each, teachers)}", code="unknown-teacher"
            )
    return named


def teachers_read(method: Method, teachers: Sequence[str]) -> tuple[str, ...]:
    """The teachers that some term of a method reads, in the order of ``teachers``; errors as of `teachers_of`."""
    read = {
        teacher for stage in method.stages.values() for teacher in teachers_of_terms(stage.terms, teachers)
    }
    return tuple(teacher for teacher in teachers if teacher in read)


def teachers_of_terms(terms: Mapping[str, Term], teachers: Sequence[str]) -> Iterable[str]:
    """The teachers that some of these terms read, each once; errors as of `teachers_of`."""
    return dict.fromkeys(
        teacher for name, term in terms.items() for teacher in teachers_of(name, term, teachers)
    )


def without_terms(method: Method, dropped: Callable[[Term], bool]) -> Method | None:
    """A method without some terms, and without the stages that have no other; None where no stage is left."""
    stages = {}
    for name, stage in method.stages.items():
        terms = {key: term for key, term in stage.terms.items() if not dropped(term)}
        if terms:
            stages[name] = stage.model_copy(update={"terms": terms})
    return method.model_copy(update={"stages": stages}) if stages else None


def parts_of(terms: Mapping[str, Term], teachers: Sequence[str]) -> dict[str, dict[str, Term]]:
    """Each term as terms of one teacher: name -> ``{name/teacher: term}``.

    A term that reads one teacher, or none, is its only part, under its own name.

    Args:
        terms: as a stage lists them.
        teachers: as for `teachers_of`.

    Raises:
        UserError: as of `teachers_of`, or a term that has the name of another one's part.
    """
    parts: dict[str, dict[str, Term]] = {}
    for name, term in terms.items():
        readers = teachers_of(name, term, teachers)
        if len(readers) < 2:
            collective = term.teacher is not None and term.teacher not in teachers
            parts[name] = {name: term.model_copy(update={"teacher": readers[0]}) if collective else term}
            continue
        parts[name] = {f"{name}/{reader}": term.model_copy(update={"teacher": reader}) for reader in readers}
        taken = next((part for part in parts[name] if part in terms), None)
        if taken is not None:
            raise UserError(
                f"The term {taken!r} has the name of the part of {name!r} for that teacher; rename it.",
                code="name-twice",
            )
    return parts
