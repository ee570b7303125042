import subprocess
import sys

PROGRAM = """
import sys, warnings
sys.argv = ['/usr/bin/{command}']
from csd_nerf.nerfstudio_compat.quiet import silence_others_in_nerfstudios_commands
silence_others_in_nerfstudios_commands()
for module in ('nerfstudio.cameras.cameras', 'csd_core.engine.loop'):
    warnings.warn_explicit('about ' + module, UserWarning, module, 1, module=module)
"""


def warned(command: str) -> list[str]:
    program = [sys.executable, "-c", PROGRAM.format(command=command)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return [line.rsplit(" ", 1)[1] for line in done.stderr.splitlines() if "about" in line]


def test_nerfstudios_commands_drop_these_warnings_and_no_others() -> None:
    assert warned("ns-train") == ["csd_core.engine.loop"]
    assert warned("other") == ["nerfstudio.cameras.cameras", "csd_core.engine.loop"]
