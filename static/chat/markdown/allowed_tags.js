// The HTML elements that replies may contain.

export const ALLOWED_TAGS = new Set(
  (
    "a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i ins kbd li mark ol p pre s small span strong sub sup " +
    "table tbody td th thead tr u ul"
  ).split(" "),
);
