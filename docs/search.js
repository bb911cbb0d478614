// The site's search finds sections that have all words, or words that begin with them, instead of any of them: Material
// passes what is typed to a worker, whose query language (lunr's) joins words by "or" unless each has a plus.
const QUERY = 2;
const FILLING = new Set(
  "a an and are be by can do does for from get gets has have how i in is it my of on or that the to what when where which who why with".split(" "),
);

const allWords = (typed) => {
  if (/["+\-~^:*]/.test(typed.replace(/\b-\b/g, ""))) return typed; // whoever writes lunr's signs means them
  const words = typed.split(/[\s-]+/).map((word) => word.replace(/[^\p{L}\p{N}_]/gu, ""));
  const telling = words.filter((word) => word && !FILLING.has(word.toLowerCase()));
  return telling.map((word) => `+${word.length > 4 ? word.replace(/(e?s|ed|ing)$/, "") : word}*`).join(" ") || typed;
};

const post = Worker.prototype.postMessage;
Worker.prototype.postMessage = function (message, ...others) {
  const isQuery = message?.type === QUERY && typeof message.data === "string";
  return post.call(this, isQuery ? { ...message, data: allWords(message.data) } : message, ...others);
};
