"""One setting a line, so that grep finds a name together with its value; and plain literals."""

import ast

import pytest
from conftest import ROOT


def setting(node):
    """Whether a target is a config key or an attribute rather than a name."""
    return isinstance(node, ast.Attribute | ast.Subscript)


def unpacks_literal(node):
    """Whether it is `a, b = x, y`."""
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Tuple)
        and len(node.targets) == 1
        and isinstance(node.targets[0], ast.Tuple)
    )


def splats_literal(node):
    """Whether it has a `*("a", "b")` or a `**{"a": 1}` in it."""
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return any(key is None and isinstance(value, ast.Dict) for key, value in pairs)
    if isinstance(node, ast.Call):
        items = node.args
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        items = node.elts
    else:
        return False
    return any(
        isinstance(item, ast.Starred) and isinstance(item.value, ast.Tuple | ast.List)
        for item in items
    )


def multiplies_text(node):
    """Whether it is `"text" * (a == b)` or `"text" * bool(a)`."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
        return False

    def is_text(side):
        constant = isinstance(side, ast.Constant) and isinstance(side.value, str)
        return constant or isinstance(side, ast.JoinedStr)

    def is_truth(side):
        call = isinstance(side, ast.Call) and isinstance(side.func, ast.Name)
        return isinstance(side, ast.Compare) or (call and side.func.id == "bool")

    left, right = node.left, node.right
    return (is_text(left) and is_truth(right)) or (is_text(right) and is_truth(left))


def offences(text, is_config):
    """Yields line and rule of everything in a file that is against a rule."""
    for node in ast.walk(ast.parse(text)):
        if unpacks_literal(node) and (is_config or any(map(setting, node.targets[0].elts))):
            yield node.lineno, "one assignment a line"
        if is_config and isinstance(node, ast.Assign) and sum(map(setting, node.targets)) > 1:
            yield node.lineno, "one assignment a line"
        if splats_literal(node):
            yield node.lineno, "write the items of the literal out"
        if multiplies_text(node):
            yield node.lineno, "text if condition else nothing"


@pytest.mark.parametrize("folder", ["configs", "vit_jax"])
def test_files_keep_the_rules(folder):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {rule}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, rule in offences(path.read_text(), folder == "configs")
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("line", "in_package", "in_configs"),
    [
        ("c.optim.name, c.optim.clip_norm = 'sgd', 1.0", 1, 1),
        ("c['a'], b = 1, 2", 1, 1),
        ("a, b = 1, 2", 0, 1),
        ("a, b = f(x)", 0, 0),
        ("c.eval.every_steps = c.checkpoint.every_steps = 2000", 0, 1),
        ("a = b = 1", 0, 0),
        ("x = (*('a', 'b'), 'c')", 1, 1),
        ("f(*['a', 'b'])", 1, 1),
        ("x = (*names, 'c')", 0, 0),
        ("x = {**{'a': 1}, 'b': 2}", 1, 1),
        ("x = {**{k: 1 for k in names}, **other}", 0, 0),
        ("x = 'late' * bool(a)", 1, 1),
        ("x = (n != 1) * f'{n}s'", 1, 1),
        ("x = ' ' * len(a)", 0, 0),
    ],
)
def test_the_rules_find_what_they_are_for(line, in_package, in_configs):
    assert len(list(offences(line, False))) == in_package
    assert len(list(offences(line, True))) == in_configs
