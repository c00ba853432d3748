from __future__ import annotations

import torch
from timm.layers import DropPath
from torch import nn

from unlabel.methods.parts.teacher import Teacher


def test_the_average_is_the_closed_form():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    teacher = Teacher(student)
    expected = [p.detach().double() for p in student.parameters()]
    for _ in range(5):
        with torch.no_grad():
            for p in student.parameters():
                p.add_(torch.randn_like(p))
        student[1].running_mean += 1
        teacher.update(student, 0.9)
        expected = [
            0.9 * e + 0.1 * p.detach().double()
            for e, p in zip(expected, student.parameters(), strict=True)
        ]
    for ours, wanted in zip(teacher.network.parameters(), expected, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-6, atol=1e-6)
    assert torch.equal(teacher.network[1].running_mean, student[1].running_mean)


def test_nobody_trains_the_teacher_and_it_is_saved():
    teacher = Teacher(nn.Linear(3, 2))
    assert not any(p.requires_grad for p in teacher.parameters())
    assert set(teacher.state_dict()) == {"network.weight", "network.bias"}


def test_a_teacher_drops_no_paths():
    student = nn.Sequential(DropPath(0.5)).train()
    teacher = Teacher(student).train()
    ones = torch.ones(64, 1)
    assert torch.equal(teacher.network(ones), ones)
    assert not torch.equal(student(ones), ones)
