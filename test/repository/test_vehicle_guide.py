"""docs/vehicle.md: links, launch arguments, packages and quoted diagnostics match the code."""

import re
from pathlib import Path

import pytest
from launch_arguments import ARGUMENTS

from mono3d_ros.doctor.checks import REQUIRED_MODULES, TOOL_MODULES
from mono3d_ros.monitoring import transport_advice
from mono3d_ros.perception.worker import STAGES

GUIDE = Path(__file__).resolve().parents[2] / 'docs' / 'vehicle.md'
#: Packages that rosdep installs from package.xml, so that pip need not.
BY_ROSDEP = {'numpy', 'scipy', 'pyyaml', 'rich', 'matplotlib'}


@pytest.fixture(scope='module')
def text():
    return GUIDE.read_text()


def anchors(path):
    titles = re.findall(r'^#+ (.*)$', path.read_text(), re.MULTILINE)
    return {re.sub('[^a-z0-9 _-]', '', title.lower()).replace(' ', '-') for title in titles}


def test_links_resolve(text):
    for target in re.findall(r'\]\(([^)]*)\)', text):
        if target.startswith('http'):
            continue
        file, _, anchor = target.partition('#')
        path = (GUIDE.parent / file).resolve() if file else GUIDE
        assert path.is_file(), target
        assert not anchor or anchor in anchors(path), target


def test_launch_arguments_are_declared(text):
    commands = re.findall(r'ros2 launch mono3d_ros (\w+)\.launch\.py (.*)', text)
    assert {name for name, _ in commands} == set(ARGUMENTS)
    for name, rest in commands:
        given = set(re.findall(r'(\w+):=', rest))
        assert given <= ARGUMENTS[name] | ARGUMENTS['detector'], f'{name}: {rest}'


def test_pip_installs_what_the_node_needs(text):
    (listed,) = re.findall(r"^pip install (.* 'numpy<2')$", text, re.MULTILINE)
    installed = {*listed.split()} | BY_ROSDEP
    assert {*REQUIRED_MODULES.values(), *TOOL_MODULES.values()} <= installed


def test_commands_are_those_of_a_colcon_installation(text):
    """colcon installs them into lib/mono3d_ros, which is not on the PATH."""
    setup = (GUIDE.parents[1] / 'setup.py').read_text()
    commands = set(re.findall(r"'(\w+) = mono3d_ros", setup))
    assert {'detector', 'doctor', 'evaluate_bag'} <= commands
    blocks = ''.join(re.findall(r'```bash\n(.*?)```', text, re.DOTALL))
    assert not {line.split()[0] for line in blocks.splitlines() if line} & commands
    assert set(re.findall(r'ros2 run mono3d_ros (\w+)', text)) <= commands


def test_the_buffer_of_cyclone_is_that_of_the_advice(text):
    assert transport_advice.CYCLONE_BUFFER in text


def test_every_stage_is_explained(text):
    explained = text.partition('| `~/latency/...` |')[2].partition('\n\n')[0]
    assert set(re.findall('`([a-z_]+)`', explained)) == set(STAGES)


def test_quoted_diagnostics_match_the_code(text):
    """Find the constant words of each quoted issue in the files that build the texts."""
    sources = ''.join(
        (GUIDE.parents[1] / 'mono3d_ros' / name).read_text()
        for name in ('monitoring/diagnostics.py', 'node/endpoints.py')
    )
    table = text.partition('| what | level |')[2].partition('\n\n')[0]
    quoted = [each for row in table.splitlines()[2:] for each in re.findall('`([^`]*)`', row)[:1]]
    assert len(quoted) >= 12
    for each in quoted:
        words = re.split(r' \.\.\. |[.(]', each)[0].replace(' RELIABILITY', '')
        assert words in re.sub(r"'\n\s*f?'", '', sources), each
