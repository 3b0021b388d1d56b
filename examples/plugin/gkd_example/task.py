"""A task with its own judging: the student learns every second class, and is judged in the dark too."""

from dataclasses import replace

from gkd.core.labels import LabelRelation, LabelSpace
from gkd.metrics import accuracy
from gkd.problems.judging import Judging, Verdict
from gkd.problems.problem import Problem
from gkd.problems.task import Task, TaskOptions


class InTheDark(Judging):
    """Adds the accuracy on test images whose pixels are a share as bright."""

    def __init__(self, brightness):
        self.brightness = brightness

    def judge(self, outputs, images):
        dark = replace(images.test, images=(images.test.images * self.brightness).byte())
        logits, _ = outputs(dark)
        of_student = logits.shape[1] == len(dark.space)  # the teacher, judged too, has columns of its own
        return Verdict({"in_the_dark": accuracy(logits, dark.labels.cpu())} if of_student else {})


class EverySecondOptions(TaskOptions):
    brightness: float = 0.5


class EverySecond(Task):
    Options = EverySecondOptions

    def spaces(self, teacher, student):
        return LabelRelation(teacher, LabelSpace(list(student)[::2]))

    def problems(self, teacher, student, seed=0):
        relation = self.spaces(teacher.space, student.space)
        student = student.restrict(relation.student)
        yield Problem("student", relation, teacher, student, judging=InTheDark(self.options.brightness))
