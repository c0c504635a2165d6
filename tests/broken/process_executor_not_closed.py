# expects: BRG501
# advice: with bridge.ProcessExecutor(1, name='render') as executor:
# says: ProcessExecutor 'render' was not closed
# stderr: ResourceWarning
# prints: 1024
"""A process executor that nobody closes: its processes stay for as long as somebody holds it."""

import bridge


class Renderer:
    def __init__(self):
        self.executor = bridge.ProcessExecutor(1, name="render")  # <- BRG501

    def render(self, number):
        return self.executor.submit(pow, 2, number).result()


print(Renderer().render(10))
