"""Two lines that the kernel prints in a terminal are left out, since they say nothing of the user's work.

Every kernel on this machine talks to its front end over TCP, and every kernel that is stopped is interrupted first.
"""

import logging

LINES = ("TCP without encryption", "KeyboardInterrupt caught in kernel")
logging.getLogger("IPKernelApp").addFilter(lambda record: not any(line in record.getMessage() for line in LINES))
