"""What the model learns, one module a skill: ``exchange(rng, held_out)`` draws one example.

With ``held_out`` it is one that training never shows, otherwise one that it may show.
"""
