// Prompts nearest to an embedding, by the vector index, with how well each variant does on them.
CALL db.index.vector.queryNodes('prompt_embedding', $count, $embedding) YIELD node, score
WITH node, 2 * score - 1 AS cosine
RETURN node.text AS text, cosine,
       [(v:Variant)-[e:SCORED]->(node) WHERE e[$metric] IS NOT NULL | [v.id, e[$metric]]] AS scores
ORDER BY cosine DESC, text
