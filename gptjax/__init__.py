"""gptjax: a GPT checkpoint goes in, a smaller one that is proven to work comes out."""
