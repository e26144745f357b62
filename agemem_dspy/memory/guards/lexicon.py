"""The words in which a text gives a language model orders, a row a language.

Each entry is a regular expression over `disguise.plain` text; accents may be written. To teach the detector another
language, add a row.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """One language.

    `drop` is to ignore, `rules` are instructions, `void` is to be in force no longer. `prior` are instructions that the
    reader has: no fact speaks of them. `obey` is to follow, `here` is this very text. `persona` makes the reader
    somebody else or speaks to it as a machine. `send` needs an address, `reveal` does not; `secrets` are what is not to
    be given away. `always` binds for ever, `asked` is a condition on what people ask or talk about, `speech` is to
    recommend or to say; `mine` in the rest of the sentence makes it a person's own wish. `conceal` is to hide something
    from the user. `erase` and `entries` are about memories.
    """

    drop: str
    rules: str
    void: str
    prior: str
    obey: str
    here: str
    persona: str
    send: str
    reveal: str
    secrets: str
    always: str
    asked: str
    speech: str
    mine: str
    conceal: str
    erase: str
    entries: str


ENGLISH = Words(
    drop=r"(?<!not )(?<!n't )(?<!never )\b(?:ignor(?:e|ing)|disregard(?:ing)?|forget|overrid(?:e|es|ing)|overrule|"
    r"bypass|discard|dismiss|abandon|neglect|unlearn|(?:set|put|leave) aside|pay no attention to|"
    r"(?:do not|don't|must not|never|no longer|stop) (?:follow|obey|heed|listen|apply|use)(?:ing)?)\b",
    rules=r"\b(?:all|any|the|your|these|those|every|existing|system|safety)\b(?:\W+\w+){0,3}?\W+"
    r"(?:instruction|rule|guideline|directive|order|prompt|polic|guidance|command|constraint|restriction|"
    r"programming)\w*|\b(?:the above|everything (?:above|before))\b",
    void=r"\b(?:void|invalid|obsolete|no longer (?:apply|applies|valid|count|in force)|revoked|superseded|suspended|"
    r"lifted|replaced|cancell?ed|overridden)\b",
    prior=r"\b(?:previous|prior|earlier|former|original|initial|preceding|above)\b(?:\W+\w+){0,1}?\W+"
    r"(?:instruction|guideline|directive|prompt|guidance|command|programming|request)\w*|"
    r"\bsystem (?:prompt|message)\b|\bnew (?:\w+ )?instructions?\b|"
    r"\b(?:everything|anything|all|what(?:ever)?)\b (?:that )?you(?:'ve| have| were| had| are) (?:been )?(?:told|"
    r"taught|given)",
    obey=r"\b(?:follow|obey|comply with|act on|work from|rely on|go by|heed|stick to|listen to)\b",
    here=r"\b(?:this (?:note|entry|memory|message|reminder|line|record|text)|what is written here|the following)\b",
    persona=r"\byou are now\b|\bfrom now on,? (?:you|act|behave|respond|answer|reply)\b|\bpretend (?:to be|you)\b|"
    r"\b(?:assistant|ai|model|mode|constraints)\b.{0,30}\bwithout (?:any )?(?:restriction|limit|filter|rule)s?|"
    r"\bfree (?:from|of) (?:all|any) (?:constraint|restriction|rule|limit)|\bdeveloper mode\b|\bjailbreak|"
    r"\b(?:this|the|any|an|note to|dear) (?:ai|assistant|agent|chatbot|language model|llm)s?\b.{0,40}"
    r"\b(?:must|should|shall|has to|have to|needs? to|is to|may not|reading)\b|\bas an ai\b",
    send=r"\b(?:send|forward|e-?mail|mail|upload|post|transmit|submit|deliver|leak|report|paste|copy|message)\b",
    reveal=r"\b(?:reveal|disclose|print|output|show|leak|repeat|recite|display|dump|read out|include|list|expose|paste|"
    r"quote|copy|hand over|give away|write out|append|attach)\b",
    secrets=r"\b(?:system prompt|(?:your|initial|hidden) (?:instructions|prompt)|passwords?|credentials?|api keys?|"
    r"secrets?|card numbers?|everything you (?:know|remember|have stored)|"
    r"(?:all|every|stored|saved|entire|full|whole|complete)\b.{0,25}\b(?:memor(?:y|ies)|conversations?|"
    r"history|notes|facts|data|details|information|cards|keys))\b",
    always=r"\b(?:always|only|exclusively|never|from now on|in every (?:answer|reply|response))\b",
    asked=r"\b(?:when(?:ever)?|if|as soon as|once|(?:every|each|any) time|(?:the )?next time|the moment)\b.{0,20}(?:"
    r"\b(?:user|customer|client|someone|somebody|anyone|anybody|people|they)\b.{0,30}"
    r"\b(?:ask|mention|say|talk|want|need|look|speak|inquire|request)|"
    r".{0,20}\b(?:comes? up|is (?:mentioned|raised|discussed|asked)|(?:conversation|topic|subject|question)s?\b))",
    speech=r"\b(?:recommend|suggest|propose|promote|praise|endorse|advise|mention|say|tell|answer|reply|respond|name|"
    r"choose|pick|offer|bring up|claim|state|insist|present|suggestion|recommendation)\b",
    mine=r"\b(?:me|my|mine|i|us|our|we)\b",
    conceal=r"\b(?:do not|don't|never|without)\b.{0,10}\b(?:tell|inform|mention|notify|alert|show|warn)(?:ing)?\b"
    r".{0,20}\b(?:user|customer|client|owner|human)\b|"
    r"\b(?:hide|conceal|keep)\b.{0,30}\bfrom the (?:user|customer|client|owner|human)|"
    r"\b(?:user|customer|client|owner|human)\b.{0,10}\b(?:must|should|need|may)(?: not|n't) (?:know|hear|learn|notice)",
    erase=r"\b(?:delete|erase|wipe|remove|clear|overwrite|destroy|purge|get rid of)\b",
    entries=r"\b(?:all|every|each|any|your|stored|saved)\b.{0,20}"
    r"\b(?:memor(?:y|ies)|entr(?:y|ies)|records?|notes?|facts?)\b",
)

GERMAN = Words(
    drop=r"\b(?:ignorier|missacht|vergiss|vergessen sie|verwirf|übergeh|setz\w* .{0,20}außer kraft|"
    r"(?:befolg|beacht|folge)\w*.{0,30} (?:nicht|keine))",
    rules=r"\b(?:alle|deine|ihre|die|keine)\w*\b(?:\W+\w+){0,3}?\W+"
    r"(?:anweisung|regel|vorgabe|instruktion|richtlinie|befehl|vorschrift|prompt)\w*",
    void=r"\b(?:ungültig|hinfällig|aufgehoben|außer kraft|(?:gilt|gelten)\b.{0,20}nicht mehr)\b",
    prior=r"\b(?:vorherig|vorig|früher|bisherig|obig|ursprünglich|vorangegangen|vorhergehend)\w*\W+(?:\w+\W+)?"
    r"(?:anweisung|vorgabe|instruktion|richtlinie|befehl|prompt|aufforderung)\w*|\bsystem-?(?:prompt|nachricht)\w*|"
    r"\bneue (?:\w+ )?anweisung\w*|\balles,? was (?:man )?(?:dir|ihnen|du)\b.{0,30}\b(?:gesagt|aufgetragen|"
    r"beigebracht)",
    obey=r"\b(?:befolg|gehorch|halte dich|richte dich|orientier|folge|beacht)\w*\b",
    here=r"\b(?:diese[rnmsr]?|folgende\w*) (?:notiz|eintrag|erinnerung|nachricht|zeile|text|anweisung|vermerk)",
    persona=r"\bab (?:sofort|jetzt) (?:bist du|sind sie|verhältst)|\bdu bist (?:jetzt|nun|ab sofort)|"
    r"\bassistent\b.{0,20}\bohne (?:jede )?(?:einschränkung|regel|grenze|filter)|\btu so,? als|"
    r"\b(?:assistent|ki|modell)\b.{0,20}\b(?:muss|soll|darf)\b",
    send=r"\b(?:schick|send|übermitt|mail|leite|übertrag|poste)\w*",
    reveal=r"\b(?:verrat|verrätst|nenn|zeig|gib|offenbar|enthüll|liste|wiederhol)\w*",
    secrets=r"\b(?:system-?prompt|passw[oö]rt\w*|kennw[oö]rt\w*|zugangsdaten|kartennummern?|geheimnisse?|"
    r"(?:alle|sämtliche|gespeicherten?|ganze)\w*\b.{0,25}(?:erinnerung|gespräch|verlauf|notiz|daten|angaben|fakten)\w*|"
    r"alles,? was du (?:weißt|über))",
    always=r"\b(?:immer|nur|ausschließlich|niemals|nie|künftig|stets|ab sofort)\b",
    asked=r"\b(?:wenn|sobald|falls|jedes mal|immer wenn)\b.{0,25}(?:\b(?:nutzer|benutzer|kunde|jemand|man|leute)\w*\b"
    r".{0,40}\b(?:frag|sag|erwähn|sprich|such|will|möchte|brauch)|\b(?:geht um|geht es um|thema|gespräch|rede auf))",
    speech=r"\b(?:empfiehl|empfehle|nenn|schlag|sag|antworte|rate|erwähn|bewirb|lobe|wähl|biete|behaupte)\w*",
    mine=r"\b(?:mir|mich|mein\w*|ich|uns|unser\w*|wir)\b",
    conceal=r"\b(?:sag|erzähl|verrat|teil|informier|erwähn)\w*\b.{0,30}\b(?:nutzer|benutzer|kunde|kundin|anwender)\w*\b"
    r".{0,20}\b(?:nichts|nicht|kein)|\bohne\b.{0,20}\b(?:nutzer|benutzer|kunde|kundin|anwender)\w*\b.{0,20}"
    r"\b(?:sagen|informieren|mitzuteilen|zu fragen)|\b(?:nutzer|benutzer|kunde|kundin)\b.{0,20}\bnichts (?:merken|"
    r"wissen|erfahren)",
    erase=r"\b(?:lösch|entfern|vernicht|überschreib|tilg)\w*",
    entries=r"\b(?:alle|jede|sämtliche|deine|gespeicherten?)\w*\b.{0,20}\b(?:erinnerung|eintr[aä]g|notiz|fakt|"
    r"daten)\w*",
)

FRENCH = Words(
    drop=r"\b(?:ignore[zr]?|oublie[zr]?|néglige[zr]?|passe[zr]? outre|fais abstraction|"
    r"ne (?:suis|suivez|respecte\w*|tiens|tenez|obéis)\b.{0,15}\b(?:pas|plus))\b",
    rules=r"\b(?:toutes?|tous|les|tes|vos|ces|des|aucune)\b(?:\W+\w+){0,3}?\W*"
    r"\b(?:instruction|règle|consigne|directive|ordre|prompt)s?\b",
    void=r"\b(?:annulée?s?|caduc\w*|suspendu\w*|levée?s?|ne (?:s'appliquent|sont|valent) plus)\b",
    prior=r"\b(?:instruction|consigne|directive|ordre|règle|demande)s? (?:\w+ )?(?:précédente?s?|antérieure?s?|"
    r"initiale?s?|"
    r"ci-dessus|reçue?s?)\b|\b(?:prompt|invite|message) (?:de |du )?système|\bnouvelles? (?:instruction|consigne)s?\b|"
    r"\btout ce (?:qu'on|que l'on|qui) (?:t'|vous |te )",
    obey=r"\b(?:suis|suive[zr]|obéis|applique[zr]?|respecte[zr]?|fie-toi|tiens-t'en)\b",
    here=r"\b(?:cette (?:note|entrée|ligne|fiche)|ce (?:souvenir|message|texte|rappel)|ce qui (?:est écrit|suit))\b",
    persona=r"\bà partir de maintenant,? (?:tu|vous)\b|\btu es (?:maintenant|désormais)\b|\bfais comme si tu\b|"
    r"\bassistant\b.{0,20}\bsans (?:aucune )?(?:restriction|limite|règle|filtre)|"
    r"\b(?:l'assistant|l'ia|le modèle)\b.{0,20}\b(?:doit|devra)\b",
    send=r"\b(?:envoie|envoyez|envoyer|transmet\w*|transfère\w*|poste|communique)[zr]?\b",
    reveal=r"\b(?:révèle|montre|affiche|divulgue|donne|répète|liste|recopie|dévoile)[zr]?\b",
    secrets=r"\b(?:prompt (?:de )?système|invite système|mots? de passe|identifiants|clés? api|numéros? de cartes?|"
    r"(?:tous?|toutes?|l'ensemble)\b.{0,25}(?:souvenir|mémoire|conversation|historique|note|donnée|information)s?|"
    r"tout ce que tu (?:sais|as))\b",
    always=r"\b(?:toujours|seulement|uniquement|exclusivement|jamais|désormais|systématiquement)\b",
    asked=r"\b(?:quand|lorsqu\w*|si|dès qu\w*|chaque fois qu\w*)\b.{0,25}(?:\b(?:utilisateur|client|quelqu'un|on|"
    r"gens)\w*"
    r"\b.{0,30}\b(?:demande|parle|dit|cherche|veut|mentionne)|\b(?:sujet|question de|conversation))",
    speech=r"\b(?:recommande|conseille|propose|suggère|dis|réponds|mentionne|cite|vante|choisis|affirme)[zr]?\b",
    mine=r"\b(?:moi|mon|ma|mes|je|j'|nous|notre)\b",
    conceal=r"\bne (?:dis|dites|révèle\w*|mentionne\w*|parle\w*)\b.{0,15}\b(?:rien|pas|"
    r"jamais)\b.{0,20}\b(?:utilisateur|client)|"
    r"\bsans (?:le dire|prévenir|avertir|informer|en parler)\b.{0,20}\b(?:utilisateur|client)|"
    r"\bà l'insu d\w+ (?:\w')?(?:utilisateur|client)",
    erase=r"\b(?:supprime|efface|détrui[st]|vide|écrase)[zr]?\b",
    entries=r"\b(?:tou[st]\w*|chaque|les|tes)\b.{0,20}\b(?:souvenir|mémoire|entrée|note|enregistrement)s?\b",
)

SPANISH = Words(
    drop=r"(?<!no )\b(?:ignor[aeá]\w*|olvid[aeá]\w*|descart[ae]\w*|desobedec\w+|desestim[ae]|"
    r"no (?:sigas|obedezcas|hagas caso|tengas en cuenta))\b",
    rules=r"\b(?:todas?|todos?|las?|los|tus|sus|cualquier)\b(?:\W+\w+){0,3}?\W*"
    r"\b(?:instrucci[oó]n(?:es)?|reglas?|normas?|directrices|órdenes|indicaciones|prompt)\b",
    void=r"\b(?:anulad[ao]s?|sin efecto|sin validez|ya no (?:valen|se aplican|rigen))\b",
    prior=r"\b(?:instrucci[oó]n(?:es)?|directrices|órdenes|indicaciones|peticiones) (?:\w+ )?(?:anteriores|previas|"
    r"iniciales|originales|recibidas)\b|\bprompt (?:de|del) sistema|\bmensaje (?:de|del) sistema|"
    r"\bnuevas? (?:instrucci[oó]n(?:es)?|indicaciones)\b|\b(?:todo )?lo que (?:te|le|se te) (?:dij|han|indic|enseñ|"
    r"orden)",
    obey=r"\b(?:sigue|obedece|cumple|haz caso|guíate|atiende|aplica|respeta)\b",
    here=r"\b(?:est[ea] (?:nota|recuerdo|entrada|mensaje|línea|texto|apunte)|lo (?:que está escrito|siguiente))\b",
    persona=r"\ba partir de ahora,? (?:eres|serás|act[uú]a)|\bahora eres\b|\bfinge (?:ser|que)|"
    r"\basistente\b.{0,20}\bsin (?:ninguna )?(?:restricci|l[ií]mite|regla|filtro)|"
    r"\b(?:el asistente|la ia|el modelo)\b.{0,20}\bdebe",
    send=r"\b(?:env[ií]a\w*|manda\w*|reenv[ií]a\w*|transmite\w*|publica|remite)\b",
    reveal=r"\b(?:revela|muestra|imprime|divulga|repite|enumera|lista|copia)\w*\b",
    secrets=r"\b(?:prompt (?:de|del) sistema|contraseñas?|credenciales|claves? api|números? de tarjeta|secretos?|"
    r"tod[oa]s?\b.{0,25}(?:recuerdo|memoria|conversaci|historial|nota|dato|informaci)\w*|todo lo que sab\w+)",
    always=r"\b(?:siempre|solo|solamente|únicamente|nunca|jamás|exclusivamente)\b",
    asked=r"\b(?:cuando|si|siempre que|cada vez que|en cuanto)\b.{0,25}(?:\b(?:usuari[oa]|client[ea]|alguien|"
    r"gente)\w*\b"
    r".{0,30}\b(?:pregunt|pid|habl|dig|diga|mencion|busc|quier)|\b(?:pregunten|hablen|se (?:hable|trate)|tema|"
    r"conversaci))",
    speech=r"\b(?:recomiend[ae]|sugi[eé]re|propon|di|responde|menciona|aconseja|elige|ofrece|afirma|contesta)\b",
    mine=r"\b(?:me|mi|mis|yo|nos|nuestr\w+)\b",
    conceal=r"\bno (?:se )?(?:lo |la )?(?:digas|cuentes|menciones|informes|avises)\b.{0,25}\b(?:usuari|client)|"
    r"\bsin (?:decir|avisar|informar|contar)\w*\b.{0,20}\b(?:usuari|client)|\ba espaldas d\w+ (?:usuari|client)",
    erase=r"\b(?:borra|elimina|suprime|sobrescrib)\w*\b",
    entries=r"\b(?:tod[oa]s?|cada|tus|los)\b.{0,20}\b(?:recuerdo|memoria|entrada|nota|registro)s?\b",
)

ITALIAN = Words(
    drop=r"(?<!non )\b(?:ignor[aie]\w*|dimentic[ah]\w*|scart[ai]|trascur[ai]|"
    r"non (?:seguire|rispettare|obbedire|tenere conto))\b",
    rules=r"\b(?:tutt[ei]|le|i|tue|tuoi|gli|qualsiasi)\b(?:\W+\w+){0,3}?\W*"
    r"\b(?:istruzion[ei]|regol[ae]|direttiv[ae]|ordini|indicazioni|prompt)\b",
    void=r"\b(?:annullat[aei]|sospes[aei]|non (?:valgono|si applicano) più)\b",
    prior=r"\b(?:istruzion[ei]|direttiv[ae]|ordini|indicazioni|richieste) (?:\w+ )?(?:precedenti|iniziali|originali|"
    r"ricevut[ei])\b|\b(?:prompt|messaggio) di sistema|\bnuov[ei] istruzion[ei]\b|"
    r"\btutto (?:quello|ciò) che ti (?:hanno|è stato)",
    obey=r"\b(?:segui|obbedisci|rispetta|attieniti|applica)\b",
    here=r"\b(?:quest[aoe'] ?(?:nota|voce|ricordo|messaggio|riga|testo|promemoria|appunto)|quanto (?:scritto|segue))\b",
    persona=r"\bda (?:ora|adesso)(?: in poi)?,? (?:sei|agisci)|\bora sei\b|\bfingi di\b|"
    r"\bassistente\b.{0,20}\bsenza (?:alcuna )?(?:restrizion|limit|regol|filtr)|"
    r"\b(?:l'assistente|l'ia|il modello)\b.{0,20}\bdeve",
    send=r"\b(?:invia\w*|manda\w*|spedisci\w*|trasmetti\w*|inoltra\w*)\b",
    reveal=r"\b(?:rivela|mostra|stampa|divulga|ripeti|elenca|copia)\w*",
    secrets=r"\b(?:prompt di sistema|password|credenziali|chiavi? api|numeri? di carta|segreti?|"
    r"tutt[aeio]\b.{0,25}(?:ricord|memori|conversazion|cronologi|not[ae]|dati|informazion)\w*|tutto (?:ciò|"
    r"quello) che sai)",
    always=r"\b(?:sempre|solo|soltanto|unicamente|mai|esclusivamente)\b",
    asked=r"\b(?:quando|se|ogni volta che|appena)\b.{0,25}(?:\b(?:utente|cliente|qualcuno|gente)\w*\b.{0,30}"
    r"\b(?:chied|parl|dic|menzion|cerc|vuole|vogli)|\b(?:si parla|argomento|conversazione))",
    speech=r"\b(?:consigli[ai]|raccomand[ai]|suggerisci|proponi|di'|rispondi|menziona|scegli|afferma)\b",
    mine=r"\b(?:mi|mio|mia|miei|mie|io|ci|nostr\w+)\b",
    conceal=r"\bnon (?:dir|dire|menzionar|informar|avvisar)\w*\b.{0,25}\b(?:utente|cliente)|"
    r"\bsenza (?:dir|informar|avvisar)\w*\b.{0,20}\b(?:utente|cliente)|\ball'insaputa d\w+.{0,3}(?:utente|cliente)",
    erase=r"\b(?:cancella|elimina|rimuovi|sovrascrivi)\w*\b",
    entries=r"\b(?:tutt[aei]|ogni|tuoi)\b.{0,20}\b(?:ricord[io]|memori[ae]|voc[ei]|not[ae]|registrazion[ei])\b",
)

PORTUGUESE = Words(
    drop=r"(?<!não )\b(?:ignor[ae]\w*|esque[cç][ae]\w*|desconsider[ae]\w*|descart[ae]|"
    r"não (?:siga|obedeça|respeite|leve em conta))\b",
    rules=r"\b(?:todas?|todos?|as?|os|suas?|tuas?|seus|quaisquer)\b(?:\W+\w+){0,3}?\W*"
    r"\b(?:instruç(?:ão|ões)|regras?|diretrizes|ordens|orientaç(?:ão|ões)|comandos?|prompt)\b",
    void=r"\b(?:anulad[ao]s?|suspens[ao]s?|sem efeito|já não (?:valem|se aplicam)|não (?:valem|se aplicam) mais)\b",
    prior=r"\b(?:instruç(?:ão|ões)|diretrizes|ordens|orientaç(?:ão|ões)|comandos|pedidos) (?:\w+ )?(?:anteriores|"
    r"prévi[ao]s|"
    r"iniciais|originais|recebid[ao]s)\b|\b(?:prompt|mensagem) d[eo] sistema|\bnovas? (?:instruç(?:ão|ões)|orientaç)|"
    r"\btudo o? ?que (?:lhe|te|vocês?) (?:diss|foi|ensin|mand)",
    obey=r"\b(?:siga|obedeça|cumpra|respeite|aplique|atenda|guie-se)\b",
    here=r"\b(?:est[ae] (?:nota|entrada|mensagem|linha|texto|lembrete|registro)|o que está escrito|o seguinte)\b",
    persona=r"\ba partir de agora,? (?:você|tu|aja)|\bagora você é\b|\bfinja (?:ser|que)|"
    r"\bassistente\b.{0,20}\bsem (?:nenhuma )?(?:restriç|limite|regra|filtro)|"
    r"\b(?:o assistente|a ia|o modelo)\b.{0,20}\bdeve",
    send=r"\b(?:envi[ea]\w*|mand[ea]\w*|transmit[ae]\w*|repass[ea]\w*|encaminh[ea]\w*)\b",
    reveal=r"\b(?:revele|mostre|imprima|divulgue|repita|liste|copie)\b",
    secrets=r"\b(?:prompt d[eo] sistema|senhas?|credenciais|chaves? de api|números? de cart(?:ão|ões)|segredos?|"
    r"tod[ao]s?\b.{0,25}(?:memória|recordaç|conversa|histórico|nota|dado|informaç)\w*|tudo o que sab\w+)",
    always=r"\b(?:sempre|só|somente|apenas|nunca|jamais|exclusivamente)\b",
    asked=r"\b(?:quando|se|sempre que|cada vez que|assim que)\b.{0,25}(?:\b(?:usuári|utilizador|client|alguém|"
    r"pessoas)\w*"
    r"\b.{0,30}\b(?:pergunt|ped|fal|diss|diz|mencion|procur|quis|quer)|\b(?:o assunto|tema|conversa))",
    speech=r"\b(?:recomende|sugira|proponha|diga|responda|mencione|aconselhe|escolha|ofereça|afirme)\b",
    mine=r"\b(?:me|mim|meus?|minhas?|eu|nos|noss\w+)\b",
    conceal=r"\bnão (?:conte|diga|mencione|informe|avise)\b.{0,25}\b(?:usuári|utilizador|client)|"
    r"\bsem (?:dizer|contar|avisar|informar)\b.{0,20}\b(?:usuári|utilizador|client)|"
    r"\bsem que [oa] (?:usuári|utilizador|client)",
    erase=r"\b(?:apag[ue]\w*|exclu[ai]\w*|elimin[ea]\w*|delet[ea]\w*|remov[ae]\w*)\b",
    entries=r"\b(?:tod[ao]s?|cada|suas?)\b.{0,20}\b(?:memória|recordaç|entrada|nota|registro)\w*",
)

RUSSIAN = Words(
    drop=r"(?<!не )\b(?:игнорир\w+|забуд\w+|отбрось\w*|пренебрег\w+|не (?:следуй|выполняй|соблюдай|учитывай|"
    r"слушай)\w*)",
    rules=r"\b(?:все|всех|свои|твои|ваши|эти|любые|никаки)\w*\b(?:\W+\w+){0,3}?\W*"
    r"\b(?:инструкци|правил|указани|команд|распоряжени|директив|промпт)\w*",
    void=r"\b(?:отменен\w*|недействительн\w*|больше не действу\w+|утратил\w* силу|приостановлен\w*)",
    prior=r"\b(?:предыдущ|прежн|прошл|первоначальн|исходн|вышестоящ|ранее данн)\w*\W+(?:\w+\W+)?"
    r"(?:инструкци|правил|указани|команд|распоряжени|директив|промпт|запрос)\w*|"
    r"\bсистемн\w+ (?:промпт|сообщени|подсказк|инструкци)\w*|\bнов\w+ инструкци\w*|"
    r"\bвс[её],? что (?:тебе|вам)\b.{0,15}\b(?:говорил|сказал|велел|поручил)\w*",
    obey=r"\b(?:следуй|слушайся|подчиняйся|выполняй|исполняй|руководствуйся|придерживайся)\w*",
    here=r"\b(?:эт\w+|данн\w+|следующ\w+) (?:записк|запис|заметк|сообщени|строк|текст|памятк|указани)\w*",
    persona=r"\bс этого момента ты\b|\bотныне ты\b|\bтеперь ты\b.{0,20}\b(?:ассистент|помощник|бот)|\bпритворись\b|"
    r"\b(?:ассистент|помощник)\w*\b.{0,20}\bбез (?:всяких )?(?:ограничени|правил|фильтр)|"
    r"\b(?:ассистент|помощник|модель|ии)\b.{0,20}\b(?:долж|обязан)\w*",
    send=r"\b(?:отправ|пошл|вышл|перешл|переда)\w*",
    reveal=r"\b(?:раскро|покаж|назов|выведи|выда|сообщи|повтори|перечисли|скопируй)\w*",
    secrets=r"\b(?:системн\w+ (?:промпт|подсказк|инструкци)\w*|парол\w+|ключ\w* api|номер\w* карт\w*|секрет\w*|"
    r"(?:все|всю|весь|сохраненн)\w*\b.{0,25}(?:воспоминани|памят|разговор|переписк|истори|заметк|данн|сведени)\w*|"
    r"все,? что (?:ты )?(?:знаешь|помнишь))",
    always=r"\b(?:всегда|только|исключительно|никогда)\b",
    asked=r"\b(?:когда|если|как только|каждый раз)\b.{0,25}(?:\b(?:пользовател|клиент|кто-то|кто-нибудь|"
    r"люди)\w*\b.{0,30}"
    r"\b(?:спраш|спрос|говор|скаж|ищ|хоч|упомян|упомин|проси)|\b(?:речь|разговор|тем)\w*)",
    speech=r"\b(?:рекоменду|совету|предлага|предложи|говори|отвеча|ответь|скажи|называ|упомина|хвали|выбира|"
    r"утвержда)\w*",
    mine=r"\b(?:мне|меня|мой|моя|мои|мое|я|нам|нас|наш\w*)\b",
    conceal=r"\bне (?:говори|сообщай|рассказывай|упоминай)\w*\b.{0,25}\b(?:пользовател|клиент)|"
    r"\b(?:без ведома|не сообщая|не говоря|втайне от)\b.{0,20}\b(?:пользовател|клиент)",
    erase=r"\b(?:удали|сотри|очисти|уничтожь)\w*",
    entries=r"\b(?:все|всю|кажд|любые|свои)\w*\b.{0,20}\b(?:воспоминани|запис|памят|заметк|данн)\w*",
)

CHINESE = Words(
    drop=r"(?:忽略|无视|忘记|忘掉|不要(?:遵守|遵循|理会|听从)|抛开|放弃|绕过)",
    rules=r"(?:所有|全部|一切|你的|任何)[^。！？\n]{0,8}(?:指令|指示|规则|规定|命令|提示词|要求|设定)",
    void=r"(?:作废|无效|失效|不再适用|取消|不再有效)",
    prior=r"(?:之前|以前|先前|上面|以上|原来|原有)[^。！？\n]{0,8}(?:指令|指示|规则|规定|命令|提示词|要求|设定)|系统提示|系统消息|提示词|"
    r"新的?指令|被告知|告诉你的",
    obey=r"(?:遵循|遵守|按照|听从|服从|依照)",
    here=r"(?:这条|此|本|以下|下面)[^。！？\n]{0,2}(?:笔记|记录|记忆|消息|备注|内容|文字|提醒)",
    persona=r"从现在(?:起|开始)[,，]?你(?:是|就是|将)|你现在是|假装你|扮演|没有任何限制|(?:助手|模型|AI)(?:必须|应当|应该)",
    send=r"(?:发送|发给|发到|转发|上传|传送|寄)",
    reveal=r"(?:透露|泄露|显示|输出|列出|打印|公开|说出|复述)",
    secrets=r"(?:系统提示|提示词|密码|密钥|卡号|机密|(?:所有|全部|保存)[^。！？\n]{0,8}(?:记忆|对话|历史|笔记|数据|信息|资料)|你知道的一切)",
    always=r"(?:总是|始终|永远|只能|只|绝不|一律|一定要|必须|务必)",
    asked=r"(?:当|如果|只要|每当|每次|一旦|有人|用户|客户)[^。！？\n]{0,12}(?:问|提到|提起|说|谈|想|需要|找)",
    speech=r"(?:推荐|建议|回答|回复|告诉|提到|宣传|选择|说)",
    mine=r"(?:我)",
    conceal=r"(?:不要|别|不得|不能)(?:告诉|通知|让|提醒|对)[^。！？\n]{0,4}(?:用户|客户)|(?:瞒着|背着)(?:用户|客户)",
    erase=r"(?:删除|清除|清空|抹去|覆盖|删掉)",
    entries=r"(?:所有|全部|每条|一切)[^。！？\n]{0,12}(?:记忆|记录|条目|笔记|数据)",
)

JAPANESE = Words(
    drop=r"(?:無視|忘れ|破棄|従わない|従うな|取り消|捨て)",
    rules=r"(?:すべて|全て|全部|あらゆる|あなたの)[^。！？\n]{0,8}(?:指示|命令|ルール|規則|プロンプト|指令)",
    void=r"(?:無効|適用されない|取り消|廃止)",
    prior=r"(?:これまで|以前|今まで|上記|元|先ほど|従来)[^。！？\n]{0,8}(?:指示|命令|ルール|規則|プロンプト|指令|言われたこと)|"
    r"システム(?:プロンプト|メッセージ)|新しい指示",
    obey=r"(?:従っ|従い|従え|守っ|則っ|基づい)",
    here=r"(?:この|以下の|次の)(?:メモ|記録|記憶|メッセージ|文|行|指示|内容)",
    persona=r"(?:これから|今から|今後)[^。！？\n]{0,4}あなたは|あなたは(?:今|もう)|ふりをして|制限のない(?:アシスタント|AI)|"
    r"(?:アシスタント|AI|モデル)は[^。！？\n]{0,20}(?:なければなりません|しなさい|べき)",
    send=r"(?:送信|送って|送れ|転送|アップロード|メール)",
    reveal=r"(?:明かし|教えて|表示し|出力し|公開し|列挙し|漏らし|見せ|復唱)",
    secrets=r"(?:システムプロンプト|パスワード|暗証番号|カード番号|秘密|(?:記憶|会話|履歴|メモ|データ)を?(?:すべて|全て|全部)|"
    r"(?:すべて|全て|保存|全部)[^。！？\n]{0,10}(?:記憶|会話|履歴|メモ|データ|情報)|知っていることをすべて)",
    always=r"(?:必ず|常に|いつも|絶対に|だけ|のみ|決して)",
    asked=r"(?:聞かれたら|尋ねられたら|質問されたら|と言ったら|(?:話|話題)[がにを]?(?:出|な)|"
    r"(?:ユーザー|誰か|お客様)[^。！？\n]{0,12}(?:聞|尋ね|言|話|求め))",
    speech=r"(?:勧め|推薦|すすめ|答え|提案|言って|紹介|返答|選)",
    mine=r"(?:私|僕|俺|わたし)",
    conceal=r"(?:ユーザー|お客様|利用者)[^。！？\n]{0,6}(?:言わない|知らせない|伝えない|内緒|秘密|黙っ)",
    erase=r"(?:削除|消去|消し|上書き)",
    entries=r"(?:すべて|全て|全部|あらゆる)[^。！？\n]{0,10}(?:記憶|記録|メモ|エントリ|データ)|(?:記憶|記録|メモ|データ)を?(?:すべて|全て|全部)",
)

LANGUAGES = (ENGLISH, GERMAN, FRENCH, SPANISH, ITALIAN, PORTUGUESE, RUSSIAN, CHINESE, JAPANESE)
