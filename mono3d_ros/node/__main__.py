"""Command `detector`, also `python -m mono3d_ros.node`: handles signals before the imports."""

import sys

from mono3d_ros import process_signals


def main() -> int:
    """Run the node and return its exit code, see detector_node.main."""
    process_signals.exit_on_signals()
    from mono3d_ros.node import detector_node

    return detector_node.main()


if __name__ == '__main__':
    sys.exit(main())
