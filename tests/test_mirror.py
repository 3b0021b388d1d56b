"""A module's test stands under the same path in tests/; the few whose tests stand elsewhere are listed here."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Module -> the test that runs it, where no test file is about it alone.
TESTED_IN: dict[str, str] = {
    "gkd/__main__.py": "tests/cli/test_arguments.py",
    "gkd/cli/compare.py": "tests/commands/test_compare.py",
    "gkd/cli/eval.py": "tests/commands/test_evaluate.py",
    "gkd/cli/predict.py": "tests/commands/test_predict.py",
    "gkd/cli/rank.py": "tests/commands/test_rank.py",
    "gkd/cli/run.py": "tests/cli/test_verbs.py",
    "gkd/cli/show.py": "tests/cli/test_verbs.py",
    "gkd/cli/validate.py": "tests/cli/test_verbs.py",
    "gkd/commands/choices.py": "tests/cli/test_arguments.py",
    "gkd/commands/grid_places.py": "tests/commands/test_compare.py",
    "gkd/config/data_section.py": "tests/cli/test_data_paths.py",
    "gkd/config/run_section.py": "tests/config/test_mistakes.py",
    "gkd/config/schema.py": "tests/config/test_mistakes.py",
    "gkd/config/section.py": "tests/cli/test_bad_input.py",
    "gkd/config/side_sections.py": "tests/config/test_mistakes.py",
    "gkd/core/batch.py": "tests/distill/test_side.py",
    "gkd/core/class_means.py": "tests/metrics/test_ncm.py",
    "gkd/core/cpus.py": "tests/data/read/test_listing.py",
    "gkd/core/errors.py": "tests/test_errors.py",
    "gkd/core/numerics.py": "tests/losses/test_contract.py",
    "gkd/core/version.py": "tests/test_face.py",
    "gkd/data/image_operations.py": "tests/data/augment/test_rand_augment.py",
    "gkd/data/read/decoded_cache.py": "tests/data/read/test_listing.py",
    "gkd/distill/adapters.py": "tests/distill/test_distiller.py",
    "gkd/distill/measured_weights.py": "tests/distill/test_pulls.py",
    "gkd/distill/outputs.py": "tests/distill/test_inputs.py",
    "gkd/distill/trained_parts.py": "tests/distill/test_distiller.py",
    "gkd/experiment/checks.py": "tests/experiment/test_prepare.py",
    "gkd/experiment/environment.py": "tests/commands/test_run.py",
    "gkd/experiment/python_arguments.py": "tests/experiment/test_fit.py",
    "gkd/experiment/solve.py": "tests/commands/test_run.py",
    "gkd/experiment/suggestions.py": "tests/experiment/test_prepare.py",
    "gkd/experiment/trial.py": "tests/commands/test_dry_run.py",
    "gkd/few_shot/problem.py": "tests/tasks/test_few_shot.py",
    "gkd/few_shot/task_judging.py": "tests/tasks/test_few_shot.py",
    "gkd/incremental/checks.py": "tests/tasks/test_incremental.py",
    "gkd/incremental/exemplar_judging.py": "tests/incremental/test_loop.py",
    "gkd/incremental/first_method.py": "tests/incremental/test_learn.py",
    "gkd/incremental/memory_file.py": "tests/incremental/test_step_folder.py",
    "gkd/incremental/summary.py": "tests/incremental/test_loop.py",
    "gkd/losses/_common.py": "tests/losses/test_contract.py",
    "gkd/losses/queues.py": "tests/losses/test_queue_similarity.py",
    "gkd/losses/regressors.py": "tests/losses/test_modules.py",
    "gkd/methods/term_checks.py": "tests/methods/test_terms.py",
    "gkd/models/class_names.py": "tests/models/test_clip.py",
    "gkd/models/layers.py": "tests/models/test_models.py",
    "gkd/problems/judging.py": "tests/training/test_loop.py",
    "gkd/problems/plan.py": "tests/tasks/test_incremental.py",
    "gkd/problems/problem.py": "tests/training/test_loop.py",
    "gkd/problems/source.py": "tests/tasks/test_cross_task.py",
    "gkd/report/added_metrics.py": "tests/report/test_accuracy_table.py",
    "gkd/report/probes.py": "tests/report/test_few_shot_table.py",
    "gkd/report/table_files.py": "tests/report/test_accuracy_table.py",
    "gkd/report/validation_table.py": "tests/commands/test_compare.py",
    "gkd/storage/cache_folder.py": "tests/commands/test_cache.py",
    "gkd/storage/judged.py": "tests/storage/test_run_results.py",
    "gkd/training/interrupt.py": "tests/training/test_stops.py",
    "gkd/training/settings.py": "tests/training/test_loop.py",
    "tasks/splits.py": "tests/tasks/test_few_shot.py",
    "tasks/teacher_options.py": "tests/tasks/test_cross_task.py",
}


def mirrored(module: str) -> str:
    """The test file of a module: gkd/core/labels.py -> tests/core/test_labels.py."""
    path = Path(module.removeprefix("gkd/"))
    return f"tests/{path.with_name(f'test_{path.name}')}"


def astray(root: Path, tested_in: dict[str, str]) -> list[str]:
    """What is wrong in a tree: a module without a test, an entry that is not needed or names what is not there."""
    paths = [path for folder in ("gkd", "tasks") for path in (root / folder).rglob("*.py")]
    modules = {path.relative_to(root).as_posix() for path in paths if path.name != "__init__.py"}
    alone = {module for module in modules if not (root / mirrored(module)).is_file()}
    return [
        *(f"{module} has no {mirrored(module)}" for module in sorted(alone - tested_in.keys())),
        *(f"{module} has its own test or is gone" for module in sorted(tested_in.keys() - alone)),
        *(f"{test} is not there" for test in sorted(set(tested_in.values())) if not (root / test).is_file()),
    ]


def test_every_module_has_its_test() -> None:
    assert astray(ROOT, TESTED_IN) == []
    assert list(TESTED_IN) == sorted(TESTED_IN)


@pytest.mark.parametrize(
    ("files", "tested_in", "found"),
    [
        (["gkd/core/labels.py", "tests/core/test_labels.py"], {}, []),
        (["tasks/own.py", "tests/tasks/test_own.py", "gkd/__init__.py"], {}, []),
        (["gkd/core/labels.py"], {}, ["gkd/core/labels.py has no tests/core/test_labels.py"]),
        (["tasks/own.py", "tests/test_own.py"], {}, ["tasks/own.py has no tests/tasks/test_own.py"]),
        (["tasks/own.py", "tests/test_a.py"], {"tasks/own.py": "tests/test_a.py"}, []),
        (["tasks/own.py"], {"tasks/own.py": "tests/test_a.py"}, ["tests/test_a.py is not there"]),
        (
            ["tasks/own.py", "tests/tasks/test_own.py", "tests/test_a.py"],
            {"tasks/own.py": "tests/test_a.py"},
            ["tasks/own.py has its own test or is gone"],
        ),
        (["tests/test_a.py"], {"tasks/own.py": "tests/test_a.py"}, ["tasks/own.py has its own test or is gone"]),
    ],
)  # fmt: skip
def test_a_module_without_its_test_and_an_entry_too_many_are_seen(
    tmp_path: Path, files: list[str], tested_in: dict[str, str], found: list[str]
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert astray(tmp_path, tested_in) == found
