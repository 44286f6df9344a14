"""How the command line takes bad files, kills, full disks and narrow consoles: tried from outside, and counted.

`python tests/reliability` runs it all; docs/reliability.md is what it found."""
