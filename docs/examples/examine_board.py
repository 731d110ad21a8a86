"""Check what a board has and lacks before a flight."""

from edgeloc.device import examine, read_board

board = read_board()
print(f"{board.name}: {board.os}, kernel {board.kernel}")

report = examine()
for finding in report.findings:
    if finding.severity != "ok":
        print(f"{finding.severity} {finding.code}: {finding.message}; {finding.fix or 'nothing to do'}")
print("ready" if report.able else "not ready: the shipped model does not run here")
