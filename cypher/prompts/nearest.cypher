// Prompts nearest to an embedding, by the vector index, with how well each variant does on them.
// The index walks a graph of neighbours and may miss some; asked for more than are needed, it walks further.
CALL db.index.vector.queryNodes('matchgraph_prompt_embedding', $reach, $embedding) YIELD node, score
WITH node, 2 * score - 1 AS cosine
ORDER BY cosine DESC, node.text
LIMIT $count
RETURN node.text AS text, cosine,
       [(v:MatchGraphVariant)-[e:SCORED]->(node) WHERE e[$metric] IS NOT NULL | [v.id, e[$metric]]] AS scores
ORDER BY cosine DESC, text
