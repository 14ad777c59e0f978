"""The house holds: imports point downward, files and functions stay small, the surface is documented."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import castor

PACKAGE = Path(castor.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = {
    "cli": 7,
    "cli_lowbit": 7,
    "cli_options": 7,
    "cli_published": 7,
    "cli_serve": 7,
    "cli_search": 7,
    "cli_groups": 7,
    "recipes": 6,
    "bench": 6,
    "demo": 6,
    "server": 6,
    "train": 5,
    "evals": 5,
    "retrieval": 5,
    "index": 5,
    "engine": 4,
    "models": 3,
    "data": 3,
    "tasks": 3,
    "diorama": 3,
    "tokens": 2,
    "nn": 2,
    "content": 1,
    "calls": 1,
    "hub": 1,
    "example": 1,
    "media": 1,
    "log": 1,
    "checkpoint": 1,
    "config": 0,
    "runtime": 0,
}

# Within floor 1, a message is made of media and calls, an example is made of messages, and pulling shows a live line.
ALLOWED_ON_ONE_FLOOR = {("content", "media"), ("content", "calls"), ("example", "content"), ("hub", "log")}
# The command line is some files.
ALLOWED_ON_ONE_FLOOR |= {("cli", "cli_options"), ("cli", "cli_published"), ("cli", "cli_serve")}
ALLOWED_ON_ONE_FLOOR |= {("cli", "cli_lowbit"), ("cli_lowbit", "cli_options")}
ALLOWED_ON_ONE_FLOOR |= {("cli_published", "cli_options"), ("cli_serve", "cli_options")}

ALLOWED_ON_ONE_FLOOR |= {("cli", "cli_search"), ("cli_search", "cli_options"), ("cli_search", "cli_groups")}

FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "tools", "base", "core", "lib"}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# Honest exceptions, each with its reason.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}

# Standard library and the heavy packages that may only be imported where they are used, never at import time.
LAZY_PACKAGES = {"av", "soundfile", "soxr", "pypdfium2", "matplotlib", "transformers", "espeakng_loader"}
LAZY_PACKAGES |= {"huggingface_hub", "tokenizers", "gguf", "llguidance", "mteb", "datasets", "usearch", "ray"}

PUBLIC = {
    "Audio",
    "Document",
    "FunctionCall",
    "FunctionResponse",
    "Image",
    "Index",
    "Message",
    "Model",
    "Part",
    "Text",
    "Video",
    "__version__",
    "load",
}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE.parent).as_posix()


def room_of(path: Path) -> str:
    """ "castor/nn/rope.py" -> "nn"; "castor/content.py" -> "content"; "castor/__init__.py" -> ""."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_rooms(path: Path) -> Iterator[tuple[str, int]]:
    """Every castor room a file imports, wherever in the file, with the line; for type checkers too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: a relative import"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "castor" else [module]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "castor" and len(parts) > 1 and parts[1] in FLOORS:
                yield parts[1], node.lineno


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_downward(path: Path) -> None:
    room = room_of(path)
    if room == "":
        return
    assert room in FLOORS, f"{name_of(path)} stands on no floor"
    for other, line in imported_rooms(path):
        is_lower = FLOORS[other] < FLOORS[room]
        is_allowed = other == room or is_lower or (room, other) in ALLOWED_ON_ONE_FLOOR
        floors = f"{room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"
        assert is_allowed, f"{name_of(path)}:{line}: {floors}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_small(path: Path) -> None:
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    limit = MAX_FILE_LINES if name_of(path) not in LONG_FILES else 2 * MAX_FILE_LINES
    assert num_lines <= limit, f"{name_of(path)} has {num_lines} lines"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            name = f"{name_of(path)}:{node.name}"
            assert length <= MAX_FUNCTION_LINES or name in LONG_FUNCTIONS, f"{name} has {length} lines"


def test_exceptions_are_still_needed() -> None:
    for name in LONG_FILES:
        assert len((PACKAGE.parent / name).read_text(encoding="utf-8").splitlines()) > MAX_FILE_LINES, name
    for name in LONG_FUNCTIONS:
        file, _, function = name.partition(":")
        lengths = [
            (node.end_lineno or 0) - node.lineno + 1
            for node in ast.walk(tree_of(PACKAGE.parent / file))
            if isinstance(node, ast.FunctionDef) and node.name == function
        ]
        assert lengths and max(lengths) > MAX_FUNCTION_LINES, name


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_names_say_what_a_module_is(path: Path) -> None:
    for part in path.relative_to(PACKAGE).with_suffix("").parts:
        assert part not in FORBIDDEN_NAMES, name_of(path)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_modules_say_why_they_exist(path: Path) -> None:
    tree = tree_of(path)
    is_empty_package = path.name == "__init__.py" and not tree.body
    assert is_empty_package or ast.get_docstring(tree), f"{name_of(path)} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_public_names_say_what_they_are(path: Path) -> None:
    for node in tree_of(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name_of(path)}:{node.lineno} {node.name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    for node in top_level_statements(tree_of(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            assert name.split(".")[0] not in LAZY_PACKAGES, f"{name_of(path)}:{node.lineno} imports {name} at import"


def top_level_statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run at import: the module's own, without those only a type checker reads."""
    for node in tree.body:
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from node.body
        else:
            yield node


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_blanket_except(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            assert caught not in ("", "Exception", "BaseException"), f"{name_of(path)}:{node.lineno}: except {caught}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_public_functions_are_annotated(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        missing = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        assert not missing and node.returns is not None, f"{name_of(path)}:{node.lineno} {node.name}: {missing}"


def test_public_surface() -> None:
    assert set(castor.__all__) == PUBLIC
    for name in castor.__all__:
        assert getattr(castor, name) is not None
    with pytest.raises(AttributeError):
        castor.nothing  # noqa: B018
