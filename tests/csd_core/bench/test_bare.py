"""The bare network is asked for exactly what was recorded."""

import torch

from csd_core.bench.bare import Recorder


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x, t, *, words):
        self.asked.append((tuple(x.shape), x.stride(), x.dtype, t, words.dtype, torch.is_grad_enabled()))
        return x


def test_calls_are_repeated_in_order_with_shape_type_and_format():
    network = Network()
    recorder, words = Recorder(network), torch.zeros(1).half()
    with recorder.recording():
        network(torch.zeros(4, 2, 3, 3), 7, words=words)
        network(torch.zeros(3, 2, 3, 3).to(memory_format=torch.channels_last), 7, words=words)
        network(torch.zeros(4, 2, 3, 3), 7, words=words)
    assert (recorder.calls, recorder.evaluations) == ([4, 3, 4], 11)
    asked = [call[:-1] for call in network.asked]
    network.asked.clear()
    recorder.replay()
    assert [call[:-1] for call in network.asked] == asked
    assert not any(call[-1] for call in network.asked)  # without gradients
    assert recorder.calls == [4, 3, 4]


def test_a_new_recording_forgets_the_one_before():
    network = Network()
    recorder = Recorder(network)
    for rows in (1, 2):
        with recorder.recording():
            network(torch.zeros(rows, 1), 0, words=torch.zeros(1))
    assert recorder.calls == [2]
    network(torch.zeros(5, 1), 0, words=torch.zeros(1))
    assert recorder.calls == [2]
